// What a worker of Piscina knows.

import { move } from 'piscina';
import { double } from './asking.js';

export { threadId } from './asking.js';

export function doubleShared(values) {
  double(values);
}

export function doubleMoved(values) {
  double(values);
  return move(values);
}

export function add(number) {
  return number + 1;
}
