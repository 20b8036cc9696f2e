import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Segmenter } from 'bidiseg';
import sharp from 'sharp';
import { decodeImage } from '../../lib/data/image-codec.js';
import { classesOf, colorLabels, overlay } from '../../lib/data/palette.js';
import { Random } from '../../lib/data/random.js';
import { ServiceSetting, serviceFaults } from '../engines/faults/service.js';
import type { ServerProcess } from '../helpers/server-process.js';
import { bidiseg, jsonLines } from './command-line.js';

const PNG = { 'content-type': 'image/png' };

/** Number of tries per fault, for a short version of `npm run test:faults`. For the bodies, the number of seconds. */
const TRIES: readonly [fault: RegExp, tries: number][] = [
  [/disconnect/, 50],
  [/send slowly/, 6],
  [/never read/, 1],
  [/wrong kind/, 2],
  [/queue holds/, 200],
  [/replaced under load/, 6],
  [/SIGTERM or SIGINT/, 2],
];

describe('command line: serve', () => {
  let setting: ServiceSetting;
  let server: ServerProcess;
  before(async () => {
    setting = await ServiceSetting.create();
    server = await setting.start();
  });
  after(() => setting?.remove());

  const post = (
    query: string,
    { body = setting.images[0]!, headers = PNG as Record<string, string>, url = server.url } = {},
  ) => fetch(`${url}segment${query}`, { method: 'POST', body: body as Uint8Array<ArrayBuffer>, headers });
  const bytesOf = async (response: Response) => Buffer.from(await response.arrayBuffer());
  const grayPixels = (png: Buffer) =>
    sharp(png).extractChannel(0).raw().toBuffer({ resolveWithObject: true });
  const grayOf = async (response: Response) => grayPixels(await bytesOf(response));
  const errorOf = async (response: Response) => {
    const { statusCode, message } = (await response.json()) as { statusCode: number; message: string };
    assert.equal(statusCode, response.status);
    return `${statusCode} ${message}`;
  };
  /** Sends a request with any headers. `fetch` does not let one choose `Host`. */
  const statusWith = async (url: string, headers: Record<string, string>, method = 'GET') => {
    const sent = request(url, { headers, method });
    sent.end();
    const [response] = (await once(sent, 'response')) as [{ statusCode: number; resume(): void }];
    response.resume();
    return response.statusCode;
  };

  it('gives labels, colors and overlays as the library makes them', async () => {
    using segmenter = await Segmenter.fromFile(setting.weightsFile);
    const { palette } = classesOf(segmenter.options);
    const image = await decodeImage(setting.images[0]!);
    const { width, height } = image;
    const input = await decodeImage(setting.images[0]!, { width: 64, height: 48 });
    const { labels: data } = await segmenter.predict(input.data, {
      ...{ count: 1, width: 64, height: 48, outputWidth: width, outputHeight: height },
      order: 'probabilities',
    });
    const labels = { data, width, height };
    const pixels = async (query: string) => {
      const response = await post(query);
      assert.equal(response.headers.get('content-type'), 'image/png');
      return sharp(await bytesOf(response))
        .raw()
        .toBuffer({ resolveWithObject: true });
    };
    const gray = await grayOf(await post(''));
    assert.deepEqual([gray.info.width, gray.info.height], [width, height]);
    assert.deepEqual(new Uint8Array(gray.data), data);
    assert.deepEqual((await grayOf(await post('?output=labels'))).data, gray.data);
    const colors = colorLabels(labels, palette);
    assert.deepEqual(new Uint8Array((await pixels('?output=color')).data), colors.data);
    const over = overlay(image, labels, palette);
    assert.deepEqual(new Uint8Array((await pixels('?output=overlay')).data), over.data);
  });

  it('gives JSON with the share of each class, by the query or by Accept', async () => {
    const { data: gray } = await grayOf(await post(''));
    for (const response of [
      await post('?output=json'),
      await post('', { headers: { ...PNG, accept: 'application/json' } }),
      await post('', { headers: { ...PNG, accept: 'image/png;q=0.5, application/*' } }),
    ]) {
      const json = (await response.json()) as {
        width: number;
        height: number;
        labels: string;
        classes: { index: number; name: string; color: string; pixels: number; share: number }[];
      };
      assert.deepEqual([json.width, json.height], [60, 40]);
      assert.deepEqual((await grayPixels(Buffer.from(json.labels, 'base64'))).data, gray);
      for (const { index, name, color, pixels, share } of json.classes) {
        assert.equal(pixels, gray.filter((label) => label === index).length);
        assert.equal(share, pixels / gray.length);
        assert.equal(name, `class ${index}`);
        assert.match(color, /^#[0-9a-f]{6}$/);
      }
      assert.equal(json.classes.length, 5);
    }
    assert.match(
      (await post('', { headers: { ...PNG, accept: '*/*' } })).headers.get('content-type')!,
      /png/,
    );
    assert.match(
      await errorOf(await post('', { headers: { ...PNG, accept: 'text/html' } })),
      /^406 Expected Accept to allow image\/png or application\/json but found 'text\/html'$/,
    );
  });

  it('reads PNG, JPEG, WebP and TIFF, whatever image type the header names', async () => {
    for (const body of setting.images) {
      for (const headers of [PNG, { 'content-type': 'application/octet-stream' }, {}]) {
        const response = await post('', { body, headers: headers as Record<string, string> });
        assert.equal(response.status, 200);
        await response.arrayBuffer();
      }
    }
  });

  const mistakes: [what: string, send: () => Promise<Response>, message: RegExp][] = [
    [
      'an unknown output',
      () => post('?output=gif'),
      /^400 Expected output to be one of labels, .* but found 'gif'$/,
    ],
    [
      'another type',
      () => post('', { headers: { 'content-type': 'text/plain' } }),
      /^415 Expected the bytes of an image .* found text\/plain; with curl/,
    ],
    [
      'a form',
      () => fetch(`${server.url}segment`, { method: 'POST', body: new FormData() }),
      /^415 .* found multipart\/form-data/,
    ],
    [
      'a compressed body',
      () => post('', { headers: { ...PNG, 'content-encoding': 'gzip' } }),
      /^415 Expected a body without Content-Encoding/,
    ],
    [
      'an empty body',
      () => post('', { body: Buffer.alloc(0) }),
      /^422 Expected an image in the body but it is empty$/,
    ],
    ['text', () => post('', { body: Buffer.from('hello') }), /^422 image: is not a PNG, JPEG, WebP or TIFF/],
    [
      'half an image',
      () => post('', { body: setting.images[0]!.subarray(0, 500) }),
      /^422 image: cannot be decoded/,
    ],
    [
      'a large body',
      () => post('', { body: Buffer.alloc(200_000) }),
      /^413 Expected a body of at most 100000 bytes/,
    ],
    ['another place', () => fetch(`${server.url}nothing?x=1`), /^404 Nothing is at GET \/nothing$/],
    ['another method', () => fetch(`${server.url}segment`), /^404 Nothing is at GET \/segment$/],
  ];
  for (const [what, send, message] of mistakes) {
    it(`${what} is one JSON error`, async () => {
      assert.match(await errorOf(await send()), message);
    });
  }

  it('an image of too many pixels is an error before it is decoded', async () => {
    // Gray pixels of one value take few bytes.
    const body = await sharp({ create: { width: 9000, height: 4000, channels: 3, background: 'black' } })
      .toColorspace('b-w')
      .png()
      .toBuffer();
    assert.match(
      await errorOf(await post('', { body })),
      /^422 image: found 9000×4000 pixels, expected at most 33554432$/,
    );
  });

  it('stops computing when the client has gone', async () => {
    // A full image takes seconds. Nothing must wait for it.
    const slow = await setting.start(['--size', '1000x800', '--timeout', '60']);
    const metric = async (name: string) =>
      Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(await (await fetch(`${slow.url}metrics`)).text())![1]);
    const abort = new AbortController();
    const body = setting.images[0]! as Uint8Array<ArrayBuffer>;
    const gone = fetch(`${slow.url}segment`, { method: 'POST', body, headers: PNG, signal: abort.signal });
    while ((await metric('bidiseg_pending_predictions')) === 0) await sleep(5);
    abort.abort();
    await assert.rejects(gone, { name: 'AbortError' });
    while ((await metric('bidiseg_pending_predictions')) > 0) await sleep(5);
    const text = await (await fetch(`${slow.url}metrics`)).text();
    assert.match(text, /^bidiseg_requests_total\{code="499"\} 1$/m);
    assert.match(text, /^bidiseg_batch_images_count 0$/m);
  });

  it('serves health, readiness, metrics and one page', async () => {
    for (const place of ['healthz', 'readyz']) assert.equal((await fetch(server.url + place)).status, 200);
    const metrics = await fetch(`${server.url}metrics`);
    assert.match(metrics.headers.get('content-type')!, /^text\/plain; version=0\.0\.4/);
    const text = await metrics.text();
    for (const name of ['bidiseg_queue_images', 'bidiseg_native_bytes', 'nodejs_eventloop_lag_p99_seconds']) {
      assert.match(text, new RegExp(`^# TYPE ${name} gauge\n${name} \\S+$`, 'm'));
    }
    assert.match(text, /^bidiseg_batch_images_bucket\{le="1"\} [1-9]\d*$/m);
    const page = await fetch(server.url);
    assert.match(page.headers.get('content-security-policy')!, /default-src 'none'; script-src 'sha256-/);
    assert.doesNotMatch(await page.text(), /src=|href="(?!data:)|@import|url\(/);
  });

  it('answers 16 requests at once on a connection, refuses more, and closes it at more than 64', async () => {
    const statuses = async (count: number) => {
      const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
      let text = '';
      socket.on('data', (bytes) => {
        text += bytes;
      });
      socket.end('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(count));
      await once(socket, 'close');
      return [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));
    };
    assert.deepEqual(
      await statuses(40),
      Array.from({ length: 40 }, (_, i) => (i < 16 ? 200 : 429)),
    );
    assert.deepEqual(await statuses(200), []);
    assert.deepEqual(await statuses(1), [200]);
  });

  it('refuses other sites on the loopback', async () => {
    const place = `${server.url}segment`;
    assert.equal(await statusWith(server.url, { host: 'rebound.example' }), 403);
    assert.equal(await statusWith(place, { host: 'rebound.example' }, 'POST'), 403);
    assert.equal(await statusWith(place, { origin: 'http://rebound.example' }, 'POST'), 403);
    assert.equal(await statusWith(place, { host: 'localhost:1', origin: 'http://localhost:1' }, 'POST'), 422);
  });

  it('with a token, everything but the page and the health needs it', async () => {
    const token = 'a-token-of-the-tests';
    const args = ['serve', '--weights', setting.weightsFile, '--host', '0.0.0.0'];
    const { code, stderr } = await bidiseg(args);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^bidiseg: Expected --token or the environment variable BIDISEG_TOKEN for host 0\.0\.0\.0/,
    );
    assert.match(
      (await bidiseg([...args, '--token', 'short'])).stderr,
      /Expected a token of at least 16 visible/,
    );
    const guarded = await setting.start(['--host', '0.0.0.0', '--token', token]);
    for (const place of ['', 'healthz', 'readyz'])
      assert.equal(await statusWith(guarded.url + place, {}), 200);
    for (const [place, method, good] of [
      ['metrics', 'GET', 200],
      ['segment', 'POST', 422],
    ] as const) {
      const url = guarded.url + place;
      assert.equal(await statusWith(url, {}, method), 401);
      for (const wrong of [
        `Bearer ${token}x`,
        `Bearer ${token.slice(1)}`,
        'Bearer ',
        token,
        `Basic ${token}`,
      ]) {
        assert.equal(await statusWith(url, { authorization: wrong }, method), 401);
      }
      assert.equal(await statusWith(`${url}?token=${token}`, {}, method), 401);
      assert.equal(
        await statusWith(url, { authorization: `Bearer ${token}`, host: 'seg.example' }, method),
        good,
      );
    }
  });

  it('--json prints one object for each request and event', async () => {
    const logging = await setting.start(['--json']);
    await (await post('', { url: logging.url })).arrayBuffer();
    assert.equal(await logging.end(), 0);
    const lines = jsonLines(logging.stdout);
    assert.ok(lines.some(({ event, url }) => event === 'listening' && url === logging.url));
    assert.ok(lines.some(({ req }) => (req as { url?: string } | undefined)?.url === '/segment'));
    assert.ok(lines.some(({ res }) => (res as { statusCode?: number } | undefined)?.statusCode === 200));
    assert.equal(lines.at(-1)!.event, 'result');
  });

  it('weights that cannot be read are an error', async () => {
    const { code, stdout, stderr } = await bidiseg(['serve', '--weights', 'none.safetensors', '--port', '0']);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^bidiseg: No such weights file: none\.safetensors\n$/);
  });

  // The seed differs each time, and a failing test prints it.
  const seed = Date.now() % 100_000;
  for (const [fault, tries] of TRIES) {
    it(`survives: ${fault.source} (seed ${seed})`, async () => {
      const { attempt } = serviceFaults(setting).find((other) => fault.test(other.fault))!;
      await attempt(tries, new Random(seed, fault.source), (line) => console.log(`      ${line}`));
    });
  }
});
