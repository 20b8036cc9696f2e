import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RunState } from '../../lib/server/watched-run.js';
import { EventStream, type ServerSentEvent } from '../helpers/event-stream.js';
import { writeFinishedRun } from '../helpers/finished-run.js';
import { ServerProcess } from '../helpers/server-process.js';
import { TINY_RUN } from '../helpers/tiny-run.js';
import { bidiseg, jsonLines, temporaryFolder } from './command-line.js';

const MAIN = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url));

/** Lines of the log in the order of their arrival, since the last reset. */
function linesOf(events: readonly ServerSentEvent[]): unknown[] {
  const start = events.findLastIndex(({ event }) => event === 'reset') + 1;
  return events.slice(start).flatMap(({ event, data }) => (event === 'message' ? (data as unknown[]) : []));
}

const stateOf = (events: readonly ServerSentEvent[]) =>
  events.findLast(({ event }) => event === 'state')?.data as RunState | undefined;

const logOf = (folder: string) =>
  readFileSync(path.join(folder, 'events.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);

/** Names, sizes and times of everything in a folder. */
const inventory = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => [name, statSync(path.join(folder, name)).size, statSync(path.join(folder, name)).mtimeMs]);

/** Sends a request with any headers. `fetch` does not let one choose `Host`. */
async function statusWith(url: string, headers: Record<string, string>): Promise<number> {
  const sent = request(url, { headers });
  sent.end();
  const [response] = (await once(sent, 'response')) as [{ statusCode: number; resume(): void }];
  response.resume();
  return response.statusCode;
}

describe('command line: watch', () => {
  const folder = temporaryFolder();
  const at = (...parts: string[]) => path.join(folder.path, ...parts);
  const servers: ServerProcess[] = [];
  const streams: EventStream[] = [];
  const watch = async (args: string[], env: Record<string, string> = {}) => {
    const server = await ServerProcess.start(['watch', ...args], env);
    servers.push(server);
    return server;
  };
  const follow = (server: ServerProcess, lastId = '') => {
    const stream = new EventStream(`${server.url}events`, lastId);
    streams.push(stream);
    return stream;
  };

  before(() => writeFinishedRun({ folder: at('finished'), classes: ['road', 'sky'], images: ['a', 'b'] }));
  afterEach(async () => {
    for (const stream of streams.splice(0)) stream.cut();
    for (const server of servers.splice(0)) await server.end('SIGKILL');
  });

  it('follows a run from before its beginning over a kill to its end, without a lost or doubled line', async () => {
    const run = at('run');
    const server = await watch([run]);
    assert.match(server.stdout, /^Waiting for a run to begin in .*run: http:\/\/127\.0\.0\.1:\d+\/$/m);
    const viewers = [follow(server), follow(server)];
    let restless = follow(server);
    const heard: ServerSentEvent[] = [];
    await viewers[0]!.until((events) => stateOf(events)?.status === 'waiting');

    // The run must outlast several looks of the server at it. Otherwise it ends before it can be killed.
    const sets = [...TINY_RUN, 'segmentation.steps=300'];
    const args = ['demo', '--output', run, ...sets.flatMap((set) => ['--set', set])];
    const child = spawn(process.execPath, [MAIN, ...args], {
      stdio: 'ignore',
      env: { ...process.env, OMP_NUM_THREADS: '1' },
    });
    await viewers[0]!.until((events) => JSON.stringify(linesOf(events)).includes('"translated"'));
    assert.equal(stateOf(viewers[0]!.events)?.status, 'running');
    child.kill('SIGKILL');
    await viewers[0]!.until((events) => stateOf(events)?.status === 'stopped');

    // One viewer is cut off again and again.
    const resumed = bidiseg(args);
    for (let time = 0; time < 10; time++) {
      await new Promise((resolve) => setTimeout(resolve, 100 + 60 * time));
      restless.cut();
      await restless.closed;
      heard.push(...restless.events);
      restless = follow(server, restless.lastId);
    }
    assert.equal((await resumed).code, 0);
    await viewers[0]!.until((events) => stateOf(events)?.status === 'ended');
    const log = logOf(run);
    for (const viewer of viewers) assert.deepEqual(linesOf(viewer.events), log);
    await restless.until(() => linesOf([...heard, ...restless.events]).length >= log.length);
    assert.deepEqual(linesOf([...heard, ...restless.events]), log);
    assert.equal(heard.filter(({ event }) => event === 'reset').length, 0);
  });

  it('continues for a page after the server itself was away, and tells it of another log', async () => {
    const run = at('again');
    await writeFinishedRun({ folder: run, classes: ['road', 'sky'], images: ['a'] });
    const all = logOf(run);
    const first = await watch([run]);
    const stream = follow(first);
    await stream.until((events) => linesOf(events).length === all.length);
    await first.end('SIGKILL');
    writeFileSync(path.join(run, 'events.jsonl'), '{"type":"warning","stage":"data","message":"new"}\n', {
      flag: 'a',
    });

    const second = await watch([run]);
    const later = follow(second, stream.lastId);
    await later.until((events) => linesOf(events).length > 0);
    assert.deepEqual(linesOf(later.events), logOf(run).slice(all.length));

    renameSync(run, at('away'));
    await later.until((events) => stateOf(events)?.status === 'gone');
    rmSync(at('away'), { recursive: true });
    await writeFinishedRun({ folder: run, classes: ['road', 'sky'], images: ['a'] });
    await later.until(
      (events) => events.some(({ event }) => event === 'reset') && linesOf(events).length >= all.length,
    );
    assert.deepEqual(linesOf(later.events), logOf(run));
  });

  it('serves one page and the pictures, and writes nothing', async () => {
    const before = inventory(at('finished'));
    const server = await watch([at('finished')]);
    const page = await fetch(server.url);
    const html = await page.text();
    assert.equal(page.headers.get('content-type'), 'text/html; charset=utf-8');
    assert.match(page.headers.get('content-security-policy')!, /default-src 'none'; script-src 'sha256-/);
    const head = html.slice(0, html.indexOf('<script>'));
    assert.doesNotMatch(head, /src=|href="(?!data:)|@import|url\(/);
    const pictures = readdirSync(at('finished', 'pictures'));
    assert.ok(pictures.length > 0);
    for (const name of pictures) {
      const response = await fetch(`${server.url}pictures/${name}`);
      assert.equal(response.headers.get('content-type'), 'image/png');
      assert.deepEqual(
        Buffer.from(await response.arrayBuffer()),
        readFileSync(at('finished', 'pictures', name)),
      );
    }
    for (const name of ['none.png', '..%2Fconfig.yaml', '..%2f..%2fetc%2fpasswd', 'a.txt', '%00.png']) {
      const response = await fetch(`${server.url}pictures/${name}`);
      assert.equal(response.status, 404, name);
      assert.equal(((await response.json()) as { statusCode: number }).statusCode, 404);
    }
    assert.equal(await server.end('SIGINT'), 0);
    assert.deepEqual(inventory(at('finished')), before);
  });

  it('refuses other sites on the loopback', async () => {
    const { url } = await watch([at('finished')]);
    assert.equal(await statusWith(url, { host: 'rebound.example' }), 403);
    assert.equal(await statusWith(`${url}events`, { host: 'rebound.example:80' }), 403);
    assert.equal(await statusWith(url, { origin: 'http://rebound.example' }), 403);
    assert.equal(await statusWith(url, { origin: 'null' }), 403);
    assert.equal(await statusWith(url, { host: 'localhost:1234', origin: 'http://localhost:1234' }), 200);
  });

  it('needs a token off the loopback, for the page, the events and the pictures', async () => {
    const token = 'a-token-of-the-tests';
    const { code, stderr } = await bidiseg(['watch', at('finished'), '--host', '0.0.0.0']);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^bidiseg: Expected --token or the environment variable BIDISEG_TOKEN for host 0\.0\.0\.0/,
    );
    const server = await watch([at('finished'), '--host', '0.0.0.0'], { BIDISEG_TOKEN: token });
    assert.match(server.stdout, new RegExp(`\\?token=${token}$`, 'm'));
    const [picture] = readdirSync(at('finished', 'pictures'));
    for (const place of ['', `pictures/${picture}`, 'events']) {
      const url = `${server.url}${place}`;
      assert.equal(await statusWith(url, {}), 401);
      assert.equal(await statusWith(`${url}?token=${token}x`, {}), 401);
      assert.equal(await statusWith(`${url}?token=${token}`, {}), 200);
      assert.equal(await statusWith(url, { authorization: `Bearer ${token}`, host: 'seg.example' }), 200);
    }
  });

  it('--json prints its address and its end', async () => {
    const server = await watch([at('finished'), '--json']);
    assert.equal(await server.end(), 0);
    const [listening, result] = jsonLines(server.stdout);
    assert.deepEqual(
      [listening!.event, listening!.url, listening!.status],
      ['listening', server.url, 'stopped'],
    );
    assert.equal(result!.event, 'result');
  });

  const mistakes: [what: string, make: (place: string) => void, message: RegExp][] = [
    [
      'a folder of other files',
      (place) => mkdirSync(path.join(place, 'photos'), { recursive: true }),
      /expected a run folder but found no config\.yaml/,
    ],
    ['a file', (place) => writeFileSync(place, ''), /expected a run folder but found a file/],
    ['a place in no folder', () => {}, /expected a run folder, or a place for one, but .* does not exist/],
    [
      'a folder with a link',
      (place) => {
        mkdirSync(place);
        writeFileSync(path.join(place, 'config.yaml'), readFileSync(at('finished', 'config.yaml')));
        symlinkSync('/etc', path.join(place, 'pictures'));
      },
      /pictures: is a symbolic link/,
    ],
    [
      'a broken config',
      (place) => {
        mkdirSync(place);
        writeFileSync(path.join(place, 'config.yaml'), 'bogus: 1\n');
      },
      /bogus/,
    ],
  ];
  for (const [index, [what, make, message]] of mistakes.entries()) {
    it(`${what} is an error`, async () => {
      const place = what.startsWith('a place') ? at('none', 'run') : at(`mistake-${index}`);
      make(place);
      const { code, stdout, stderr } = await bidiseg(['watch', place, '--port', '0']);
      assert.deepEqual([code, stdout], [1, '']);
      assert.match(stderr, /^bidiseg: [^\n]*\n$/);
      assert.match(stderr, message);
    });
  }

  it('a port in use is an error', async () => {
    const { url } = await watch([at('finished')]);
    const { code, stderr } = await bidiseg(['watch', at('finished'), '--port', new URL(url).port]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^bidiseg: Cannot listen on 127\.0\.0\.1, port \d+: another program uses it; choose another/,
    );
  });
});
