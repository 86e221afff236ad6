"""Content negotiation: which of our media types an Accept header likes best (RFC 9110, 12.5.1).

In: the header and our types, the one we prefer first. Out: one of our types. Refused: a header that takes none of them
(406). A header that names nothing takes everything.
"""

from schemas.errors import EspalierError

MOST_QUOTED = 100


def preferred(header: str, offers: tuple[str, ...]) -> str:
    """The offer with the highest quality; between equals, our order decides."""
    ranges = [_range(part) for part in header.split(",") if part.strip()]
    if not ranges:
        return offers[0]
    best = max(offers, key=lambda offer: (_quality(offer, ranges), -offers.index(offer)))
    if not _quality(best, ranges):
        detail = f"Accept: {header[:MOST_QUOTED]} takes none of {', '.join(offers)}"
        raise EspalierError("not_acceptable", detail, where="Accept")
    return best


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media, quality


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The most specific range that covers the offer decides."""
    for pattern in (offer, offer.partition("/")[0] + "/*", "*/*"):
        for media, quality in ranges:
            if media == pattern:
                return quality
    return 0.0
