import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import {
  BatchedPredictor,
  createConfig,
  decodeImage,
  encodeImage,
  type RunEvent,
  readSummary,
  renderScene,
  Segmenter,
  segment,
} from 'bidiseg';
import { stringify } from 'yaml';
import { FakeSegmenter, settled } from '../helpers/fake-segmenter.js';
import { ROOT, temporaryFolder } from '../helpers/folder.js';
import { TINY_RUN } from '../helpers/tiny-run.js';
import { writeTrainedSegmenter } from '../helpers/trained-segmenter.js';

const example = (name: string) => path.join(ROOT, 'examples', name);
const SIZE = { width: 96, height: 64 };

/** A running example that listens, and how it ended. */
interface Service {
  url: string;
  child: ChildProcess;
  stderr: () => string;
  /** Sends a signal and waits for the end. */
  end: (signal: NodeJS.Signals) => Promise<{ code: number | null; ms: number }>;
}

const running: ChildProcess[] = [];

async function start(name: string, args: string[]): Promise<Service> {
  const child = spawn(process.execPath, [example(name), ...args, '0'], { stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  const output = { out: '', err: '' };
  child.stderr!.on('data', (chunk) => {
    output.err += chunk;
  });
  const url = await new Promise<string>((resolve, reject) => {
    child.on('exit', (code) => reject(new Error(`it ended with ${code}: ${output.err}`)));
    child.stdout!.on('data', (chunk) => {
      output.out += chunk;
      const [, found] = /listening on (\S+)\n/.exec(output.out) ?? [];
      if (found) resolve(found);
    });
  });
  const end = async (signal: NodeJS.Signals) => {
    const begin = performance.now();
    const exit = once(child, 'exit');
    child.kill(signal);
    const [code] = (await exit) as [number | null];
    return { code, ms: performance.now() - begin };
  };
  return { url, child, stderr: () => output.err, end };
}

const post = (url: string, body: Uint8Array, type = 'image/png') =>
  fetch(`${url}/segment`, { method: 'POST', body: new Uint8Array(body), headers: { 'content-type': type } });

const bytesOf = async (response: Response) => new Uint8Array(await response.arrayBuffer());

describe('examples for backends', () => {
  const folder = temporaryFolder();
  let weights: string;
  let png: Uint8Array<ArrayBuffer>;
  before(async () => {
    weights = await writeTrainedSegmenter(folder.path('weights.safetensors'));
    png = await encodeImage({
      data: renderScene({ seed: 9, index: 3, look: 'day', ...SIZE }).image,
      ...SIZE,
    });
  });
  after(() => {
    for (const child of running) child.kill('SIGKILL');
    folder.remove();
  });

  it('segmentation-service.mjs segments, names what is wrong, survives its clients, and ends', async () => {
    const { url, end, stderr } = await start('segmentation-service.mjs', [weights]);
    const answer = await post(url, png);
    assert.deepEqual([answer.status, answer.headers.get('content-type')], [200, 'image/png']);
    using segmenter = await Segmenter.fromFile(weights);
    const options = { size: { width: 320, height: 160 }, output: 'overlay', format: 'png' } as const;
    assert.deepEqual(await bytesOf(answer), (await segment(segmenter, png, options)).data);

    const broken = await post(url, Buffer.from('hello'));
    assert.equal(broken.status, 422);
    assert.match(
      ((await broken.json()) as { error: string }).error,
      /^image: is not a PNG, JPEG, WebP or TIFF/,
    );
    assert.equal((await post(url, png, 'text/html')).status, 415);
    assert.match(await answerToHead(url, 17 * 2 ** 20), /^HTTP\/1\.1 413 /);

    for (let i = 0; i < 20; i++) leave(url, png);
    const all = await Promise.all(Array.from({ length: 20 }, () => post(url, png)));
    assert.deepEqual(new Set(all.map(({ status }) => status)), new Set([200]));

    const last = post(url, png);
    await new Promise((resolve) => setTimeout(resolve, 5));
    const { code, ms } = await end('SIGTERM');
    await last.then(
      ({ status }) => assert.equal(status, 200),
      (error: Error) => assert.match(String(error.cause), /ECONNREFUSED|closed/, 'it came too late'),
    );
    assert.equal(code, 0);
    assert.ok(ms < 5000, `${ms} ms`);
    assert.equal(stderr(), '');
  });

  it('training-service.mjs trains and serves; SIGTERM saves the state, and it resumes', async () => {
    const config = folder.path('config.yaml');
    const sets = TINY_RUN.map((entry) => entry.replace('{steps: 3,', '{steps: 100000,'));
    writeFileSync(config, stringify(createConfig({ preset: 'demo' }, { set: sets })));
    const args = [config, folder.path('runs')];
    const service = await start('training-service.mjs', args);
    const { url } = service;
    assert.equal((await post(url, png)).status, 503);
    assert.equal((await fetch(`${url}/trainings/a.b`, { method: 'PUT' })).status, 400);
    assert.equal((await fetch(`${url}/trainings/nobody/events`)).status, 404);
    assert.equal((await fetch(`${url}/trainings/street`, { method: 'PUT' })).status, 202);
    assert.equal((await fetch(`${url}/trainings/street`, { method: 'PUT' })).status, 409);

    let last = 0;
    let ended: Promise<{ code: number | null; ms: number }> | undefined;
    let status: unknown;
    for await (const event of eventsOf(`${url}/trainings/street/events`)) {
      if (event.type === 'status') status = event.data;
      if (event.type !== 'step') continue;
      const { stage, step } = event.data as Extract<RunEvent, { type: 'step' }>;
      if (stage !== 'round-1/segmenter-0') continue;
      last = step;
      if (step < 10 || ended) continue;
      const answer = await post(url, png);
      assert.equal(answer.status, 200);
      const { width, height } = await decodeImage(await bytesOf(answer));
      assert.deepEqual([width, height], [96, 64]);
      ended = service.end('SIGTERM');
    }
    const { code, ms } = await ended!;
    assert.equal(code, 0);
    assert.ok(ms < 5000, `SIGTERM took ${ms} ms`);
    assert.deepEqual(status, { status: 'stopped', error: 'the process received SIGTERM' });
    assert.equal(service.stderr(), '');

    const again = await start('training-service.mjs', args);
    await fetch(`${again.url}/trainings/street`, { method: 'PUT' });
    for await (const { type, data } of eventsOf(`${again.url}/trainings/street/events`)) {
      if (type !== 'step') continue;
      assert.equal((data as { step: number }).step, last + 1, 'not a step is lost');
      break;
    }
    const stopped = await fetch(`${again.url}/trainings/street`, { method: 'DELETE' });
    assert.deepEqual(await stopped.json(), { status: 'stopped' });
    assert.equal((await again.end('SIGINT')).code, 0);
    const { stages } = await readSummary(folder.path('runs/street'));
    assert.ok(stages.some(({ name }) => name === 'source-only'));
  });

  it("next-route: the route's handler on web-standard requests", async () => {
    process.env.BIDISEG_WEIGHTS = weights;
    const route = (await import(example('next-route/app/api/segment/route.js'))) as {
      POST: (request: Request) => Promise<Response>;
      runtime: string;
    };
    const config = (await import(example('next-route/next.config.mjs'))) as {
      default: { serverExternalPackages: string[] };
    };
    assert.deepEqual([route.runtime, config.default.serverExternalPackages], ['nodejs', ['bidiseg']]);
    const request = (body: Uint8Array<ArrayBuffer>, init: RequestInit = {}) =>
      new Request('http://localhost/api/segment', { method: 'POST', body, ...init });
    const answer = await route.POST(request(png));
    assert.deepEqual([answer.status, answer.headers.get('content-type')], [200, 'image/png']);
    using segmenter = await Segmenter.fromFile(weights);
    const expected = await segment(segmenter, png, { output: 'overlay', format: 'png' });
    assert.deepEqual(await bytesOf(answer), expected.data);

    const broken = await route.POST(request(png.slice(0, 50)));
    assert.equal(broken.status, 422);
    assert.match(((await broken.json()) as { error: string }).error, /^image: cannot be decoded/);
    const headers = { 'content-length': String(2 ** 30) };
    assert.equal((await route.POST(request(png, { headers }))).status, 413);
    const gone = new AbortController();
    const left = route.POST(request(png, { signal: gone.signal }));
    gone.abort();
    await assert.rejects(left, { name: 'AbortError' });

    const own = globalThis as { bidisegPredictor?: Promise<BatchedPredictor> };
    const { segmenter: loaded } = { segmenter: await own.bidisegPredictor! };
    const fake = new FakeSegmenter();
    const full = new BatchedPredictor(fake, { limit: 1, maxQueue: 1 });
    own.bidisegPredictor = Promise.resolve(full);
    const calls = [0, 1].map(async (turn) => {
      for (let i = 0; i < turn; i++) await settled();
      return full.predict(new Uint8Array(3), { count: 1, width: 1, height: 1 });
    });
    for (let i = 0; i < 3; i++) await settled();
    const rejected = await route.POST(request(png));
    assert.deepEqual([rejected.status, rejected.headers.get('retry-after')], [429, '1']);
    for (const [i, call] of calls.entries()) {
      fake.calls[i]!.finish();
      await call;
      await settled();
    }
    await loaded.drain();
    delete own.bidisegPredictor;
  });

  it('worker-thread.mjs segments in a worker', async () => {
    const good = folder.path('a scene.png');
    const bad = folder.path('bad.png');
    writeFileSync(good, png);
    writeFileSync(bad, 'hello');
    const args = [example('worker-thread.mjs'), weights, good, bad, good];
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args);
    const lines = stdout.trim().split('\n').sort();
    assert.equal(lines.length, 3);
    assert.equal(lines[0], lines[1]);
    assert.match(lines[0]!, /a scene\.png: [a-z ]+ \d+\.\d %, [a-z ]+ \d+\.\d %, [a-z ]+ \d+\.\d %$/);
    assert.match(lines[2]!, /bad\.png: image: is not a PNG/);
    assert.equal(stderr, '');
  });
});

/** Announces a body of so many bytes, and returns the answer. A client that sends them may find the connection closed. */
async function answerToHead(url: string, length: number): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.write(
    `POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: ${length}\r\n\r\n`,
  );
  const [answer] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  return String(answer);
}

/** Sends half of a request and disconnects. */
function leave(url: string, body: Uint8Array): void {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname, () => {
    socket.write(
      `POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: ${body.length}\r\n\r\n`,
    );
    socket.write(body.subarray(0, Math.random() < 0.5 ? body.length : 100));
    setTimeout(() => socket.destroy(), 10 * Math.random());
  });
  socket.on('error', () => {});
}

/** Reads server-sent events. */
async function* eventsOf(url: string): AsyncGenerator<{ type: string; data: unknown }> {
  const response = await fetch(url);
  assert.equal(response.headers.get('content-type'), 'text/event-stream');
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body!) {
    text += decoder.decode(chunk as Uint8Array, { stream: true });
    const whole = text.split('\n\n');
    text = whole.pop()!;
    for (const one of whole) {
      const [, type, data] = /^event: (.*)\ndata: (.*)$/.exec(one)!;
      yield { type: type!, data: JSON.parse(data!) };
    }
  }
}
