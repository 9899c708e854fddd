// The web server of examples/programs/src/bin/server.rs as it is written for Node.js with Piscina: `/` is the health check,
// `/compute?n=` has a worker thread add up the square roots of the numbers up to n.
//
//     node server.js <workers> <niceIncrement>

import { createServer } from 'node:http';
import { Piscina } from 'piscina';

const [workers, niceIncrement] = process.argv.slice(2).map(Number);
const pool = new Piscina({
  filename: new URL('worker.js', import.meta.url).href,
  minThreads: workers,
  maxThreads: workers,
  niceIncrement,
  // As many as the queue of the other server holds.
  maxQueue: 64,
});

async function compute(url, response) {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  try {
    const sum = await pool.run(Number(url.searchParams.get('n') ?? 50_000_000), { signal: gone.signal });
    response.end(String(sum));
  } catch (error) {
    if (!gone.signal.aborted) {
      response.writeHead(503, { 'Retry-After': '1' }).end(`${error.message}\n`);
    }
  }
}

const server = createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname === '/') {
    response.end('ok\n');
  } else if (url.pathname === '/compute') {
    compute(url, response);
  } else {
    response.writeHead(404).end();
  }
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
