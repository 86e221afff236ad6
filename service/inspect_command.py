"""`espalier inspect`: what of a model could go, and what stays and why.

In: the parsed arguments. Out: a table on stdout, or the whole inspection as JSON; exit code 0. Nothing is removed and
no model is written. What fails leaves as an `EspalierError`.
"""

import argparse

from schemas.inspect_request import parse_inspection
from schemas.inspection import Inspection
from service.errand import done, files_of
from service.options import document_of
from service.summary import inspection_table


def inspect(arguments: argparse.Namespace) -> int:
    files = files_of(arguments)
    request = parse_inspection(document_of(arguments.options, arguments.set))
    with done(request, files, arguments) as left:
        found = left.document(Inspection)
    print(found.model_dump_json(by_alias=True, indent=1) if arguments.json else inspection_table(found))
    return 0
