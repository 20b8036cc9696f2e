import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Segmenter } from 'bidiseg';
import fc from 'fast-check';
import sharp from 'sharp';
import type { Random } from '../../../lib/data/random.js';
import { randomBytes } from '../../helpers/random.js';
import { ServerProcess } from '../../helpers/server-process.js';
import { mutationsOf } from '../fuzz/mutations.js';
import type { Fault } from './faults.js';

type Note = (line: string) => void;

/** Statuses of requests whose body is of the wrong kind, or happens to be an image. */
const STATUSES = [200, 400, 406, 413, 415, 422];

const MAX_BYTES = 100_000;

/** `bidiseg serve` with a tiny network, and what it needs. */
export class ServiceSetting {
  readonly folder: string;
  /** Good images as PNG, JPEG, WebP and TIFF. */
  readonly images: Buffer[] = [];
  /** Files of two networks. */
  readonly weights: Buffer[] = [];
  /** Labels that each of the networks gives the first image. */
  readonly labels: Buffer[] = [];
  readonly #servers: ServerProcess[] = [];

  private constructor() {
    this.folder = mkdtempSync(path.join(tmpdir(), 'bidiseg-service-'));
  }

  static async create(): Promise<ServiceSetting> {
    const setting = new ServiceSetting();
    const raw = { raw: { width: 60, height: 40, channels: 3 as const } };
    const image = () => sharp(randomBytes(60 * 40 * 3, 1), raw);
    setting.images.push(await image().png().toBuffer(), await image().jpeg().toBuffer());
    setting.images.push(await image().webp().toBuffer(), await image().tiff().toBuffer());
    for (const seed of [1, 2]) {
      const place = path.join(setting.folder, 'made.safetensors');
      const options = {
        backbone: 'resnet18',
        width: 1 / 16,
        classCount: 5,
        initialization: 'kaiming',
      } as const;
      using segmenter = await Segmenter.create({ ...options, seed });
      await segmenter.save(place);
      setting.weights.push(readFileSync(place));
    }
    for (const weights of setting.weights) {
      setting.replaceWeights(weights);
      const server = await setting.start();
      setting.labels.push(await labelsOf(server, setting.images[0]!));
      await server.end();
    }
    assert.notDeepEqual(setting.labels[0], setting.labels[1], 'the two networks must differ');
    setting.replaceWeights(setting.weights[0]!);
    return setting;
  }

  /** Starts the server. */
  async start(args: string[] = []): Promise<ServerProcess> {
    const limits = ['--size', '64x48', '--max-bytes', String(MAX_BYTES), '--max-queue', '16'];
    const server = await ServerProcess.start(
      ['serve', '--weights', this.weightsFile, ...limits, ...args],
      // V8 collects its garbage before it takes more, and ends the process if there is nothing to collect.
      { NODE_OPTIONS: '--max-old-space-size=96' },
    );
    this.#servers.push(server);
    return server;
  }

  get weightsFile(): string {
    return path.join(this.folder, 'served.safetensors');
  }

  /** Replaces the file of the weights at once, as a deployment does. */
  replaceWeights(bytes: Uint8Array): void {
    writeFileSync(`${this.weightsFile}.new`, bytes);
    renameSync(`${this.weightsFile}.new`, this.weightsFile);
  }

  async remove(): Promise<void> {
    for (const server of this.#servers) await server.end('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Lists the faults of the service. */
export function serviceFaults(setting: ServiceSetting): Fault[] {
  const withServer =
    (
      attempt: (server: ServerProcess, tries: number, random: Random, note: Note) => Promise<number>,
      args: string[] = [],
    ) =>
    async (tries: number, random: Random, note: Note): Promise<number> => {
      const server = await setting.start(args);
      await warmUp(server, setting);
      const before = await figuresOf(server);
      const tried = await attempt(server, tries, random, note);
      await requireWhole(server, setting, before, note);
      assert.equal(await server.end(), 0);
      // With --json, lines for people go to stderr.
      if (!args.includes('--json')) assert.equal(server.stderr, '');
      return tried;
    };
  return [
    {
      fault: 'service: clients that disconnect, at any moment of a request',
      tries: 1000,
      outcome: 'later requests are answered; no prediction, object or byte is left',
      attempt: withServer((server, tries, random) => disconnect(server, setting, tries, random)),
    },
    {
      fault: 'service: clients that send slowly, in the head or the body',
      tries: 100,
      outcome: 'status 408 after the timeout; others are not disturbed',
      attempt: withServer(
        (server, tries, random) => sendSlowly(server, setting, tries, random),
        ['--timeout', '2'],
      ),
    },
    {
      fault: 'service: clients that ask on and on and never read',
      tries: 20,
      outcome: 'the connection is closed after the timeout',
      attempt: withServer((server, tries) => neverRead(server, setting, tries), ['--timeout', '2']),
    },
    {
      fault: 'service: bodies, types and outputs of the wrong kind, for ten minutes',
      tries: 600,
      outcome: 'one answer each: an image, or a JSON error of one line',
      attempt: withServer((server, seconds, random, note) => fuzz(server, setting, seconds, random, note)),
    },
    {
      fault: 'service: more requests at once than the queue holds',
      tries: 1000,
      outcome: 'status 200, or 429 with Retry-After',
      // The queue holds fewer images than a batch, so it stays full until the deadline, however fast the machine is.
      attempt: withServer(
        (server, tries) => flood(server, setting, tries),
        ['--limit', '32', '--deadline', '100'],
      ),
    },
    {
      fault: 'service: weights replaced under load, every third file broken',
      tries: 100,
      outcome: 'no lost request; each answer is of one of the two networks',
      attempt: withServer((server, tries, _random, note) => reload(server, setting, tries, note), ['--json']),
    },
    {
      fault: 'service: SIGTERM or SIGINT under load',
      tries: 20,
      outcome: 'what was accepted is answered; exit code 0',
      attempt: async (tries, random) => {
        for (let i = 0; i < tries; i++)
          await endUnderLoad(setting, random.next() < 0.5 ? 'SIGTERM' : 'SIGINT');
        return tries;
      },
    },
  ];
}

// --- What is normal ---

async function labelsOf(server: ServerProcess, image: Buffer): Promise<Buffer> {
  const response = await post(server, image);
  assert.equal(response.status, 200, await response.clone().text());
  return Buffer.from(await response.arrayBuffer());
}

function post(
  { url }: ServerProcess,
  body: Uint8Array,
  { query = '', type = 'image/png', signal }: { query?: string; type?: string; signal?: AbortSignal } = {},
): Promise<Response> {
  const headers = { 'content-type': type };
  return fetch(`${url}segment${query}`, {
    method: 'POST',
    body: body as Uint8Array<ArrayBuffer>,
    headers,
    ...(signal && { signal }),
  });
}

async function warmUp(server: ServerProcess, { images }: ServiceSetting): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await Promise.all(
      images.map((image) => post(server, image, { query: '?output=json' }).then((r) => r.text())),
    );
  }
}

interface Figures {
  objects: number;
  nativeBytes: number;
  pending: number;
  /** Requests whose image is there and whose answer is not. */
  accepted: number;
  resident: number;
  /** Of JavaScript objects, garbage included. */
  heap: number;
}

async function figuresOf({ url }: ServerProcess): Promise<Figures> {
  const text = await (await fetch(`${url}metrics`)).text();
  const value = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)![1]);
  return {
    objects: [...text.matchAll(/^bidiseg_native_objects\{.*\} (\d+)$/gm)].reduce(
      (sum, [, count]) => sum + Number(count),
      0,
    ),
    nativeBytes: value('bidiseg_native_bytes'),
    accepted: value('bidiseg_accepted_requests'),
    pending: value('bidiseg_pending_predictions'),
    resident: value('process_resident_memory_bytes'),
    heap: value('nodejs_heap_size_total_bytes'),
  };
}

function memoryOf({ resident, heap }: Figures): string {
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(0);
  return `${mib(resident)} MiB (JavaScript ${mib(heap)})`;
}

/** Checks that nothing of the fault is left, and that the service works. */
async function requireWhole(
  server: ServerProcess,
  setting: ServiceSetting,
  before: Figures,
  note: Note,
): Promise<void> {
  for (let i = 0; (await figuresOf(server)).pending > 0; i++) {
    assert.ok(i < 100, 'predictions are pending that nobody waits for');
    await sleep(50);
  }
  const labels = await labelsOf(server, setting.images[0]!);
  assert.ok(setting.labels.some((one) => one.equals(labels)));
  // What is free goes back to the system after ten seconds without work.
  await sleep(12_000);
  const after = await figuresOf(server);
  note(`${memoryOf(before)} before, ${memoryOf(after)} after; ${after.objects} objects`);
  assert.equal(after.objects, before.objects);
  // Predictions keep weights in layouts for the shapes of batches that they have seen.
  assert.ok(
    after.nativeBytes < 2 * before.nativeBytes,
    `${before.nativeBytes} to ${after.nativeBytes} bytes in tensors`,
  );
  assert.ok(after.resident < before.resident + 100 * 2 ** 20, 'the resident set grew by more than 100 MiB');
}

// --- The faults ---

/** Runs `work` `count` times, some at once. */
async function several(count: number, atOnce: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, worker));
}

function requestBytes(image: Buffer, query = ''): Buffer {
  const head =
    `POST /segment${query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n` +
    `Content-Length: ${image.length}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), image]);
}

function dial(server: ServerProcess): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1', () => resolve(socket));
    socket.once('error', reject);
    socket.on('error', () => {});
  });
}

async function disconnect(
  server: ServerProcess,
  { images }: ServiceSetting,
  tries: number,
  random: Random,
): Promise<number> {
  await several(tries, 24, async () => {
    const whole = requestBytes(images[random.integer(images.length)]!, '?output=overlay');
    const isWhole = random.next() < 0.6;
    const part = isWhole ? whole : whole.subarray(0, random.integer(whole.length));
    const socket = await dial(server);
    socket.write(part);
    await sleep(random.integer(40));
    if (random.next() < 0.5) socket.destroy();
    else socket.resetAndDestroy();
  });
  return tries;
}

async function sendSlowly(
  server: ServerProcess,
  setting: ServiceSetting,
  tries: number,
  random: Random,
): Promise<number> {
  let isOver = false;
  const others = (async () => {
    while (!isOver) {
      const start = performance.now();
      await labelsOf(server, setting.images[0]!);
      assert.ok(performance.now() - start < 5000, 'a slow client disturbed another one');
    }
  })();
  await several(tries, 30, async (index) => {
    const whole = requestBytes(setting.images[0]!);
    // Slow in the head, or slow in the body.
    const first = index % 2 === 0 ? random.integer(40) + 1 : whole.length - 10;
    const answer = await trickle(server, whole, first);
    assert.match(answer, /^HTTP\/1\.1 408 Request Timeout\r\n/);
    assert.match(answer, /"statusCode":408,.*"message":"The request came too slowly"/);
  });
  isOver = true;
  await others;
  return tries;
}

/** Sends the beginning of a request at once and the rest too slowly. Returns the answer. */
async function trickle(server: ServerProcess, request: Buffer, first: number): Promise<string> {
  const socket = await dial(server);
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  const closed = new Promise<void>((resolve) => {
    socket.on('close', () => resolve());
  });
  socket.write(request.subarray(0, first));
  let sent = first;
  const timer = setInterval(() => {
    if (sent < request.length - 1) socket.write(request.subarray(sent, ++sent));
  }, 1000);
  await Promise.race([closed, sleep(20_000)]);
  clearInterval(timer);
  socket.destroy();
  return answer;
}

async function neverRead(server: ServerProcess, setting: ServiceSetting, tries: number): Promise<number> {
  await several(tries, 5, () => askOnAndOn(server, setting));
  return tries;
}

/** Asks again and again on one connection and never reads, until the server closes it. */
async function askOnAndOn(server: ServerProcess, { images }: ServiceSetting): Promise<void> {
  const socket = await dial(server);
  socket.pause();
  const isClosed = () => socket.destroyed || !socket.writable;
  const closed = new Promise<void>((resolve) => {
    socket.on('close', () => resolve());
    socket.on('error', () => resolve());
  });
  socket.write(requestBytes(images[0]!, '?output=overlay'));
  const request = Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20));
  const deadline = performance.now() + 60_000;
  while (!isClosed()) {
    assert.ok(performance.now() < deadline, 'the connection of a client that never reads stays open');
    if (!socket.write(request)) await Promise.race([sleep(100), closed]);
  }
  socket.destroy();
}

const TYPES = [
  'image/png',
  'image/jpeg',
  'application/octet-stream',
  'image/',
  'text/plain',
  'application/json',
  'a',
  '*/*',
];
const QUERIES = [
  '',
  '?output=labels',
  '?output=color',
  '?output=overlay',
  '?output=json',
  '?output=x',
  '?output=json&output=color',
  '?%',
];

async function fuzz(
  server: ServerProcess,
  { images }: ServiceSetting,
  seconds: number,
  random: Random,
  note: Note,
): Promise<number> {
  const end = performance.now() + 1000 * seconds;
  const counts = new Map<number, number>();
  let tried = 0;
  const bodies = fc.oneof(
    { weight: 6, arbitrary: mutationsOf(images) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 3000 }).map((bytes) => Buffer.from(bytes)) },
    { weight: 1, arbitrary: fc.constantFrom(Buffer.alloc(0), Buffer.alloc(MAX_BYTES + 1), ...images) },
  );
  const memory: string[] = [];
  while (performance.now() < end) {
    const share = 1 - (end - performance.now()) / 1000 / seconds;
    if (share > memory.length / 5) memory.push(memoryOf(await figuresOf(server)));
    const some = fc.sample(bodies, { numRuns: 200, seed: random.integer(2 ** 31) });
    await several(some.length, 4, async (index) => {
      const isPlain = random.next() < 0.8;
      const type = isPlain ? 'image/png' : TYPES[random.integer(TYPES.length)]!;
      const query = isPlain ? '' : QUERIES[random.integer(QUERIES.length)]!;
      const response = await post(server, some[index]!, { query, type });
      counts.set(response.status, (counts.get(response.status) ?? 0) + 1);
      await requireAnswer(response, STATUSES);
      tried++;
    });
  }
  note(
    [...counts]
      .sort()
      .map(([status, count]) => `${count} × ${status}`)
      .join(', '),
  );
  note(`in the course of it: ${memory.join(', ')}`);
  return tried;
}

async function requireAnswer(response: Response, statuses: readonly number[]): Promise<void> {
  const body = Buffer.from(await response.arrayBuffer());
  assert.ok(statuses.includes(response.status), `${response.status} ${body}`);
  if (response.status === 200) {
    assert.ok(body.length > 50);
    return;
  }
  const error = JSON.parse(String(body)) as { statusCode: number; error: string; message: string };
  assert.deepEqual(Object.keys(error), ['statusCode', 'error', 'message']);
  assert.equal(error.statusCode, response.status);
  assert.match(error.message, /^[^\n]{5,500}$/);
}

async function flood(server: ServerProcess, { images }: ServiceSetting, tries: number): Promise<number> {
  const counts = { 200: 0, 429: 0 } as Record<number, number>;
  await several(tries, 200, async (index) => {
    const response = await post(server, images[index % images.length]!);
    await requireAnswer(response.clone(), [200, 429]);
    await response.arrayBuffer();
    counts[response.status]!++;
    if (response.status === 429) assert.match(response.headers.get('retry-after')!, /^[1-9]\d*$/);
  });
  assert.ok(counts[200]! > 0 && counts[429]! > 0, JSON.stringify(counts));
  return tries;
}

async function reload(
  server: ServerProcess,
  setting: ServiceSetting,
  tries: number,
  note: Note,
): Promise<number> {
  let isOver = false;
  let answers = 0;
  const seen = [0, 0];
  const client = async () => {
    while (!isOver) {
      const labels = await labelsOf(server, setting.images[0]!);
      const which = setting.labels.findIndex((one) => one.equals(labels));
      assert.ok(which >= 0, 'an answer of neither network');
      seen[which]!++;
      answers++;
    }
  };
  const clients = Array.from({ length: 6 }, client);
  const broken = setting.weights[0]!.subarray(0, 5000);
  for (let time = 0; time < tries; time++) {
    const isBroken = time % 3 === 2;
    setting.replaceWeights(isBroken ? broken : setting.weights[(time + 1) % 2]!);
    const count = (event: string) => server.stdout.split(`"event":"${event}"`).length - 1;
    const before = count('reloaded') + count('reload-failed');
    server.signal('SIGHUP');
    for (let i = 0; count('reloaded') + count('reload-failed') === before; i++) {
      assert.ok(i < 500, 'the weights were not reloaded');
      await sleep(20);
    }
    await sleep(20);
  }
  isOver = true;
  await Promise.all(clients);
  note(`${answers} answers, ${seen.join(' and ')} of the two networks`);
  assert.ok(seen.every((count) => count > 0));
  assert.equal(server.stdout.split('"event":"reload-failed"').length - 1, Math.floor(tries / 3));
  setting.replaceWeights(setting.weights[0]!);
  return tries;
}

async function endUnderLoad(setting: ServiceSetting, signal: NodeJS.Signals): Promise<void> {
  // The images wait for a second, because the batch is not full.
  const server = await setting.start(['--limit', '32', '--deadline', '1000']);
  const requests = Array.from({ length: 12 }, () => labelsOf(server, setting.images[0]!));
  for (let i = 0; (await figuresOf(server)).accepted < requests.length; i++) {
    assert.ok(i < 100, 'the requests were not accepted');
  }
  const ended = server.end(signal);
  for (const labels of await Promise.all(requests)) assert.ok(labels.equals(setting.labels[0]!));
  assert.equal(await ended, 0);
}
