-- Takes in new jobs and lists them: each stands in line, or waits for its time or in its tenant's backlog.
--
-- KEYS    record of each job
-- ARGV    1 most open jobs of the shard, 2 how many tenants; then for each tenant: itself, most jobs of it in line
--         or running (0: as many as the fleet can run), its jobs per second (0: any), its weight, most open jobs
--         of it, most bytes of their payloads, most jobs of it that are kept, most bytes of those that have
--         ended; then for each job: which tenant's, counted from 1, its id, payload, gateway to reply to ('':
--         nobody waits), '1' if interactive, how long to keep it once it has ended, in ms, its terms,
--         idempotency key ('': none), what tells its request from others, priority, which names its placement
--         too ('': normal, without one), how long it is to wait at least, in ms, the moment before which it is
--         not to begin, in ms since the epoch, after how many ms it is not to begin any more (0: it always
--         may), its webhook as JSON ('': none)
-- returns an answer for each job, as `submit` in `functions/submitting.lua` says
-- atomic  as `enqueue`; and two requests with one key must become one job

local accounts, jobs, tenants = {}, {}, tonumber(ARGV[2])
for index = 1, tenants do
  accounts[index] = read_account(ARGV, 2 + ACCOUNT_ARGS * (index - 1))
end
for index = 1, #KEYS do
  jobs[index] = read_new_job(ARGV, 2 + ACCOUNT_ARGS * tenants + JOB_ARGS * (index - 1))
end
return submit(KEYS, accounts, jobs, tonumber(ARGV[1]))
