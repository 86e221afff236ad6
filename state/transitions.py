"""The moves of a job between its states, as Lua: each script is one atomic step inside Redis.

In: the arguments that each script lists. Out: a short array that `state/jobs.py` turns into values. Refused: a move
that the job's present state or attempt does not allow; the script then changes nothing and says so.

Time is Redis' own (`TIME`), so that machines with different clocks agree on a lease. Keys:

    job:{id}            hash    submit, owner, queue, state, attempt, cancel, progress, created_at, started_at,
                                finished_at, result, failure, idem
    events:{id}         stream  what happened to the job
    holds:{id}          set     blobs that the job needs while it is unfinished
    outs:{id}           set     blobs that are the job's results
    jobs:queued:{queue} zset    id -> when its bell was last rung
    jobs:running        zset    id -> when its lease ends
    jobs:owner:{owner}  zset    score 0: ids sort by time
    active:{owner}      set     unfinished jobs
    idem:{n}:{owner}:{key}      "body_sha256 id"; n = length of the owner's name, so that no two pairs share a key
    blob:{sha}          hash    why the blob lives: put:{owner}, in:{id}, out:{id} -> owner
    doomed:{sha}        string  nobody refers to the blob and its file is about to be deleted
    holds:open          zset    jobs that hold blobs and were never submitted -> since when
    counters            hash    submitted, finished:{state}, restarted
"""

DOOMED_MS = 5000
EVENTS_KEPT = 5000

_PRELUDE = f"""
local moment = redis.call('TIME')
local now = tonumber(moment[1]) + tonumber(moment[2]) / 1000000
local stamp = string.format('%.6f', now)
local orphans = {{}}

local function read(id, field) return redis.call('HGET', 'job:' .. id, field) end

local function tell(id, kind, ...)
  redis.call('XADD', 'events:' .. id, 'MAXLEN', '~', {EVENTS_KEPT}, '*', 'type', kind, 'at', stamp, ...)
end

local function tell_state(id, state)
  tell(id, 'state', 'state', state, 'attempt', read(id, 'attempt'))
end

-- The file of a blob that nothing refers to is deleted by whoever made the last reference go; the mark keeps others
-- from referring to it in between.
local function unrefer(sha, field)
  if redis.call('HDEL', 'blob:' .. sha, field) == 1 and redis.call('EXISTS', 'blob:' .. sha) == 0 then
    redis.call('SET', 'doomed:' .. sha, '1', 'PX', {DOOMED_MS})
    orphans[#orphans + 1] = sha
  end
end

local function release(id)
  for _, sha in ipairs(redis.call('SMEMBERS', 'holds:' .. id)) do unrefer(sha, 'in:' .. id) end
  redis.call('DEL', 'holds:' .. id)
  redis.call('ZREM', 'holds:open', id)
end

local function owns(sha, owner)
  if redis.call('HEXISTS', 'blob:' .. sha, 'put:' .. owner) == 1 then return true end
  for _, holder in ipairs(redis.call('HVALS', 'blob:' .. sha)) do
    if holder == owner then return true end
  end
  return false
end

local function enqueue(id, rung)
  redis.call('HSET', 'job:' .. id, 'state', 'queued')
  redis.call('ZREM', 'jobs:running', id)
  redis.call('ZADD', 'jobs:queued:' .. read(id, 'queue'), rung, id)
  tell_state(id, 'queued')
end

local function run(id, lease_end)
  redis.call('HSET', 'job:' .. id, 'state', 'running')
  redis.call('ZREM', 'jobs:queued:' .. read(id, 'queue'), id)
  redis.call('ZADD', 'jobs:running', lease_end, id)
  tell_state(id, 'running')
end

-- The inputs of a job live no longer than the job is unfinished: hence `release`.
local function close(id, state, finished_at)
  redis.call('HSET', 'job:' .. id, 'state', state, 'finished_at', finished_at)
  redis.call('HDEL', 'job:' .. id, 'cancel')
  redis.call('ZREM', 'jobs:queued:' .. read(id, 'queue'), id)
  redis.call('ZREM', 'jobs:running', id)
  redis.call('SREM', 'active:' .. read(id, 'owner'), id)
  redis.call('HINCRBY', 'counters', 'finished:' .. state, 1)
  release(id)
  tell_state(id, state)
end

local function known_repeat(idem, body)
  local held = redis.call('GET', idem)
  if not held then return nil end
  local before, id = string.match(held, '^(%S+) (%S+)$')
  if redis.call('EXISTS', 'job:' .. id) == 0 then return nil end
  return {{ before == body and 'same' or 'other', id }}
end
"""

# ARGV: idem key, body sha256. Out: {"same" | "other", id} or nothing.
REPEAT_OF = _PRELUDE + "return known_repeat(ARGV[1], ARGV[2])"

# ARGV: id, manifest, owner, queue, created_at, idem key or "", body sha256, max queued, max per owner, idempotency
# seconds, blobs... Out: {"created" | "same" | "other" | "full" | "many" | "blob", id or blob}.
SUBMIT = (
    _PRELUDE
    + """
local id, manifest, owner, queue, created_at, idem, body = unpack(ARGV, 1, 7)
if idem ~= '' then
  local before = known_repeat(idem, body)
  if before then return before end
end
-- A client that lost the answer asks again with the same id.
if redis.call('EXISTS', 'job:' .. id) == 1 then return { 'same', id } end
local queued = redis.call('ZCARD', 'jobs:queued:cpu') + redis.call('ZCARD', 'jobs:queued:gpu')
if queued >= tonumber(ARGV[8]) then return { 'full', id } end
if redis.call('SCARD', 'active:' .. owner) >= tonumber(ARGV[9]) then return { 'many', id } end
for i = 11, #ARGV do
  if not owns(ARGV[i], owner) then return { 'blob', ARGV[i] } end
end
for i = 11, #ARGV do
  redis.call('HSET', 'blob:' .. ARGV[i], 'in:' .. id, owner)
  redis.call('SADD', 'holds:' .. id, ARGV[i])
end
redis.call('ZREM', 'holds:open', id)
redis.call('HSET', 'job:' .. id, 'submit', manifest, 'owner', owner, 'queue', queue, 'created_at', created_at,
           'attempt', '0', 'idem', idem)
redis.call('ZADD', 'jobs:owner:' .. owner, 0, id)
redis.call('SADD', 'active:' .. owner, id)
if idem ~= '' then redis.call('SET', idem, body .. ' ' .. id, 'EX', ARGV[10]) end
redis.call('HINCRBY', 'counters', 'submitted', 1)
enqueue(id, stamp)
return { 'created', id }
"""
)

# ARGV: id, manifest, owner, queue, created_at, idem key or "", body sha256, remaining idempotency seconds or 0, state,
# attempt, finished_at or "", result or "", failure or "", number of inputs, inputs..., outputs... Out: 1, or 0 where
# the job is known already.
RESTORE = (
    _PRELUDE
    + """
local id, manifest, owner, queue, created_at, idem, body, seconds, state, attempt, finished_at = unpack(ARGV, 1, 11)
if redis.call('EXISTS', 'job:' .. id) == 1 then return 0 end
redis.call('HSET', 'job:' .. id, 'submit', manifest, 'owner', owner, 'queue', queue, 'created_at', created_at,
           'attempt', attempt, 'idem', idem)
redis.call('ZADD', 'jobs:owner:' .. owner, 0, id)
if idem ~= '' and tonumber(seconds) > 0 then redis.call('SET', idem, body .. ' ' .. id, 'EX', seconds, 'NX') end
local inputs = tonumber(ARGV[14])
if state == 'queued' then
  for i = 15, 14 + inputs do
    redis.call('HSET', 'blob:' .. ARGV[i], 'in:' .. id, owner)
    redis.call('SADD', 'holds:' .. id, ARGV[i])
  end
  redis.call('SADD', 'active:' .. owner, id)
  enqueue(id, '0')
  return 1
end
for i = 15 + inputs, #ARGV do
  redis.call('HSET', 'blob:' .. ARGV[i], 'out:' .. id, owner)
  redis.call('SADD', 'outs:' .. id, ARGV[i])
end
if ARGV[12] ~= '' then redis.call('HSET', 'job:' .. id, 'result', ARGV[12]) end
if ARGV[13] ~= '' then redis.call('HSET', 'job:' .. id, 'failure', ARGV[13]) end
close(id, state, finished_at)
return 1
"""
)

# ARGV: id, failure. Out: {state before or "", orphans}.
CANCEL = (
    _PRELUDE
    + """
local id = ARGV[1]
local state = read(id, 'state')
if state == 'queued' then
  redis.call('HSET', 'job:' .. id, 'failure', ARGV[2])
  close(id, 'cancelled', stamp)
elseif state == 'running' then
  redis.call('HSET', 'job:' .. id, 'cancel', '1')
end
return { state or '', orphans }
"""
)

# ARGV: id. Out: {state before or "", orphans}; a running job stays.
DELETE = (
    _PRELUDE
    + """
local id = ARGV[1]
local state = read(id, 'state')
if not state or state == 'running' then return { state or '', orphans } end
if state == 'queued' then close(id, 'cancelled', stamp) end
for _, sha in ipairs(redis.call('SMEMBERS', 'outs:' .. id)) do unrefer(sha, 'out:' .. id) end
local idem = read(id, 'idem')
if idem ~= '' then
  local held = redis.call('GET', idem)
  if held and string.match(held, '(%S+)$') == id then redis.call('DEL', idem) end
end
redis.call('ZREM', 'jobs:owner:' .. read(id, 'owner'), id)
redis.call('DEL', 'outs:' .. id, 'events:' .. id, 'job:' .. id)
return { state, orphans }
"""
)

# ARGV: id, worker, lease seconds. Out: {manifest, attempt} or nothing.
CLAIM = (
    _PRELUDE
    + """
local id = ARGV[1]
if read(id, 'state') ~= 'queued' then return nil end
redis.call('HINCRBY', 'job:' .. id, 'attempt', 1)
redis.call('HSET', 'job:' .. id, 'worker', ARGV[2], 'started_at', stamp)
redis.call('HDEL', 'job:' .. id, 'progress')
run(id, now + tonumber(ARGV[3]))
return { read(id, 'submit'), read(id, 'attempt') }
"""
)

# ARGV: id, attempt, lease seconds, progress or "". Out: "held" | "cancel" | "lost". A job whose lease ran out and
# that no other worker has started yet is taken back.
RENEW = (
    _PRELUDE
    + """
local id, attempt = ARGV[1], ARGV[2]
local state = read(id, 'state')
if read(id, 'attempt') ~= attempt or (state ~= 'running' and state ~= 'queued') then return 'lost' end
local lease_end = now + tonumber(ARGV[3])
if state == 'queued' then run(id, lease_end) else redis.call('ZADD', 'jobs:running', lease_end, id) end
if ARGV[4] ~= '' then
  redis.call('HSET', 'job:' .. id, 'progress', ARGV[4])
  tell(id, 'progress', 'progress', ARGV[4], 'attempt', attempt)
end
return read(id, 'cancel') and 'cancel' or 'held'
"""
)

# ARGV: id, attempt, state, finished_at, result or "", failure or "", outputs... Out: {1 | 0, orphans}. Asked again with
# the same words (the answer was lost), it says yes again.
FINISH = (
    _PRELUDE
    + """
local id, attempt, state, finished_at, result, failure = unpack(ARGV, 1, 6)
local before = read(id, 'state')
if not before or read(id, 'attempt') ~= attempt then return { 0, orphans } end
if before ~= 'running' and before ~= 'queued' then
  local again = before == state and read(id, 'finished_at') == finished_at
  return { again and 1 or 0, orphans }
end
local owner = read(id, 'owner')
for i = 7, #ARGV do
  redis.call('HSET', 'blob:' .. ARGV[i], 'out:' .. id, owner)
  redis.call('SADD', 'outs:' .. id, ARGV[i])
end
if result ~= '' then redis.call('HSET', 'job:' .. id, 'result', result) end
if failure ~= '' then redis.call('HSET', 'job:' .. id, 'failure', failure) end
close(id, state, finished_at)
return { 1, orphans }
"""
)

# ARGV: max attempts, seconds after which a bell is rung again, failure "worker_lost", failure "cancelled", how long
# blobs of a job that was never submitted are kept. Out: {ids and queues to ring, ids closed, orphans}.
REAP = (
    _PRELUDE
    + """
local ring, closed = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'jobs:running', '-inf', stamp)) do
  if read(id, 'cancel') then
    redis.call('HSET', 'job:' .. id, 'failure', ARGV[4])
    close(id, 'cancelled', stamp)
    closed[#closed + 1] = id
  elseif tonumber(read(id, 'attempt')) >= tonumber(ARGV[1]) then
    redis.call('HSET', 'job:' .. id, 'failure', ARGV[3])
    close(id, 'failed', stamp)
    closed[#closed + 1] = id
  else
    redis.call('HINCRBY', 'counters', 'restarted', 1)
    enqueue(id, stamp)
    ring[#ring + 1] = id
    ring[#ring + 1] = read(id, 'queue')
  end
end
for _, queue in ipairs({ 'cpu', 'gpu' }) do
  -- While messages wait, workers are busy and no bell is lost; ringing then would only make the list grow.
  if redis.call('LLEN', 'prune.' .. queue) == 0 then
    local waiting = 'jobs:queued:' .. queue
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now - tonumber(ARGV[2]))) do
      redis.call('ZADD', waiting, stamp, id)
      ring[#ring + 1] = id
      ring[#ring + 1] = queue
    end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'holds:open', '-inf', now - tonumber(ARGV[5]))) do release(id) end
return { ring, closed, orphans }
"""
)

# ARGV: sha, field, owner, id or "". Out: "held", "doomed" while the file of that blob is being deleted, or "over" where
# the job that wants to hold it has ended.
REFER = (
    _PRELUDE
    + """
local sha, field, owner, id = unpack(ARGV, 1, 4)
if redis.call('EXISTS', 'doomed:' .. sha) == 1 then return 'doomed' end
local state = id ~= '' and read(id, 'state')
if state and state ~= 'queued' and state ~= 'running' then return 'over' end
redis.call('HSET', 'blob:' .. sha, field, owner)
if id ~= '' then
  redis.call('SADD', 'holds:' .. id, sha)
  if not state then redis.call('ZADD', 'holds:open', 'NX', stamp, id) end
end
return 'held'
"""
)

# ARGV: sha, owner. Out: 1 or 0.
OWNS = _PRELUDE + "return owns(ARGV[1], ARGV[2]) and 1 or 0"

# ARGV: sha, field. Out: orphans.
UNREFER = _PRELUDE + "unrefer(ARGV[1], ARGV[2]) return orphans"

# ARGV: id. Out: orphans. A job that was submitted keeps what it holds until it ends.
RELEASE = _PRELUDE + "if redis.call('EXISTS', 'job:' .. ARGV[1]) == 0 then release(ARGV[1]) end return orphans"

SCRIPTS = {
    "REPEAT_OF": REPEAT_OF,
    "SUBMIT": SUBMIT,
    "RESTORE": RESTORE,
    "CANCEL": CANCEL,
    "DELETE": DELETE,
    "CLAIM": CLAIM,
    "RENEW": RENEW,
    "FINISH": FINISH,
    "REAP": REAP,
    "REFER": REFER,
    "OWNS": OWNS,
    "UNREFER": UNREFER,
    "RELEASE": RELEASE,
}
