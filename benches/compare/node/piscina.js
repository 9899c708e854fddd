// Piscina: values that are transferred or shared; everything else as it comes.

import { answer, pinned, shared } from './asking.js';

await answer(async (how, workers) => {
  if (how !== 'transfer' && how !== 'shared') {
    throw new Error(`no way to hand over: ${how}`);
  }
  const { Piscina } = await pinned('piscina');
  const pool = new Piscina({
    filename: new URL('piscina_worker.js', import.meta.url).href,
    minThreads: workers,
    maxThreads: workers,
    // More than one, or a worker sleeps between two of many jobs.
    concurrentTasksPerWorker: 16,
  });
  return {
    // Asked for once: all that is placed are pools of one.
    threads: async () => [await pool.run(null, { name: 'threadId' })],
    numbers: (len) => (how === 'shared' ? shared(len) : new Float64Array(len)),
    double:
      how === 'shared'
        ? async (values) => {
            await pool.run(values, { name: 'doubleShared' });
            return values;
          }
        : (values) => pool.run(values, { name: 'doubleMoved', transferList: [values.buffer] }),
    add: (number) => pool.run(number, { name: 'add' }),
    close: () => pool.destroy(),
  };
});
