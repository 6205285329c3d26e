// graphile-worker with a local queue and completion in batches, as its own figures were taken with
// (https://worker.graphile.org/docs/performance): the setting is the size of the local queue. Phases as in timing.py.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { performance } from "node:perf_hooks";

const [phase, connectionString, jobs, setting] = process.argv.slice(2);
const logger = new Logger(() => () => {});
const PER_CALL = 1000;
const CONCURRENCY = 24;

const cpuSeconds = () => {
  const used = process.cpuUsage();
  return (used.user + used.system) / 1e6;
};

async function install() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  await utils.release();
  return {};
}

async function enqueue() {
  const texts = Array.from({ length: Number(jobs) }, (_, n) => String(n).padStart(12, "0").padEnd(239, "x"));
  const utils = await makeWorkerUtils({ connectionString, logger });
  const began = performance.now();
  const cpu = cpuSeconds();
  for (let first = 0; first < texts.length; first += PER_CALL) {
    await utils.addJobs(texts.slice(first, first + PER_CALL).map((text) => ({ identifier: "noop", payload: { text } })));
  }
  const measured = { seconds: (performance.now() - began) / 1000, cpu_seconds: cpuSeconds() - cpu };
  await utils.release();
  return measured;
}

async function work() {
  let left = Number(jobs);
  let first = 0;
  let last = 0;
  const cpu = cpuSeconds();
  const preset = {
    worker: {
      connectionString,
      concurrentJobs: CONCURRENCY,
      maxPoolSize: CONCURRENCY + 1,
      localQueue: { size: Number(setting) },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  };
  let runner;
  await new Promise((done, failed) => {
    const noop = async () => {
      last = performance.now();
      first ||= last;
      left -= 1;
      if (left === 0) done();
    };
    run({ preset, logger, noHandleSignals: true, taskList: { noop } }).then((one) => (runner = one), failed);
  });
  await runner.stop();
  return { seconds: (last - first) / 1000, cpu_seconds: cpuSeconds() - cpu };
}

console.log(JSON.stringify(await { install, enqueue, work }[phase]()));
process.exit(0);
