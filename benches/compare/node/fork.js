// child_process.fork without a library: messages in the serialisation of structured clones.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { answer, double, inOrder, inTurn, threadId } from './asking.js';

if (process.send) {
  process.on('message', ({ values, number }) => {
    if (values === undefined) {
      process.send(number === undefined ? threadId() : number + 1);
    } else {
      double(values);
      process.send(values);
    }
  });
} else {
  await answer((how, workers) => {
    if (how !== 'advanced') {
      throw new Error(`no serialization: ${how}`);
    }
    const start = () => fork(fileURLToPath(import.meta.url), { serialization: how, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    const children = Array.from({ length: workers }, start);
    const channels = children.map((child) => {
      child.on('exit', (code, signal) => {
        throw new Error(`a worker ended with ${code ?? signal}`);
      });
      return inOrder(
        (message) => child.send(message),
        (reply) => child.on('message', reply),
      );
    });
    const send = inTurn(channels);
    return {
      threads: () => Promise.all(channels.map((channel) => channel({}))),
      numbers: (len) => new Float64Array(len),
      double: (values) => send({ values }),
      add: (number) => send({ number }),
      close: () => {
        for (const child of children) {
          child.removeAllListeners('exit');
          child.disconnect();
        }
      },
    };
  });
}
