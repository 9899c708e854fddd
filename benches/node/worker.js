// What a worker of server.js does.

export default function sumOfRoots(n) {
  let sum = 0;
  for (let number = 1; number <= n; number += 1) {
    sum += Math.sqrt(number);
  }
  return sum;
}
