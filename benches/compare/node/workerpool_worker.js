// What a worker of workerpool knows.

import workerpool from 'workerpool';
import { double, threadId } from './asking.js';

workerpool.worker({
  threadId,
  doubleMoved(values) {
    double(values);
    return new workerpool.Transfer(values, [values.buffer]);
  },
  doubleCopied(values) {
    double(values);
    return values;
  },
  add: (number) => number + 1,
});
