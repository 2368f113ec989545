-- Takes in a new job and lists it: it stands in line, or waits for its time or in its tenant's backlog.
--
-- KEYS[1] stream of its priority, KEYS[2] record of the job
-- ARGV    1 job id, 2 tenant, 3 payload, 4 gateway to reply to ('': nobody waits), 5 '1' if
--         interactive, 6 most jobs of the tenant in line or running (0: as many as the fleet can run), 7 its
--         jobs per second (0: any), 8 how long
--         to keep it once it has ended, in ms, 9 its terms, 10 idempotency key ('': none), 11 what
--         tells its request from others, 12 most open jobs of the shard, 13 priority, which names its placement too ('': normal, without one), 14 how
--         long it is to wait at least, in ms, 15 the moment before which it is not to begin, in ms since
--         the epoch, 16 after how many ms it is not to begin any more (0: it may always),
--         17 weight of the tenant, 18 most open jobs of it, 19 most bytes of their payloads, 20 most jobs
--         of it that are kept, 21 most bytes of those that have ended, 22 its webhook as JSON ('': none)
-- returns {'queued', 0} (also if it was already), {'repeated', job} the key stands for that one, or
--         {refusal, ms to wait}: 'mismatch' the key came with another request, 'full' the queue, 'jobs' or
--         'bytes' the tenant has as many open, 'placements' there are as
--         many as may be, 'kept' or 'kept_bytes' as many kept, 'rate' its rate
-- atomic  as `enqueue`; and two requests with one key must become one job

return submit(KEYS[2], ARGV)
