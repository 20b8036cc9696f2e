import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { html } from '../report/html.js';
import { requireAccess } from './access.js';
import { HttpError } from './http-error.js';
import { createServer, listen, type ServerOptions } from './http-server.js';
import { chartLibraries, makePage, sendPage } from './page.js';
import { WATCH_STYLE } from './watch-style.js';
import { WatchedRun } from './watched-run.js';

/** Server with the live page of a run. */
export interface WatchServer {
  /** Address of the page. */
  url: string;
  /** State of the run at the start. */
  status: string;
  close(): Promise<void>;
}

/** Largest number of viewers. Each keeps a connection open. */
const MAX_VIEWERS = 256;

/** Time without news after which a line keeps the connection open, in milliseconds. */
const HEARTBEAT_MS = 15_000;

/** Number of log lines in one message. */
const LINES_A_MESSAGE = 500;

/**
 * Serves the live page of a run, which need not have begun. Only reads in the run folder.
 *
 * - `/`: the page
 * - `/events`: the event log and the state of the run, as server-sent events. The id of a message says where in which
 *   log it ends, so a viewer that comes back continues after what it has.
 * - `/pictures/NAME.png`: a picture of the run
 *
 * @throws ConfigError, DataError when the folder holds something else, or the address cannot be used
 * @throws InvalidArgumentError when other machines could reach the server without a token
 */
export async function watchRun(folder: string, options: ServerOptions): Promise<WatchServer> {
  const app = createServer(options, { forceCloseConnections: true });
  const run = await WatchedRun.open(folder);
  try {
    await addRoutes(app, run, options);
    const url = await listen(app, options);
    return {
      url: options.token === undefined ? url : `${url}?token=${encodeURIComponent(options.token)}`,
      status: run.state.status,
      close: async () => {
        run.close();
        await app.close();
      },
    };
  } catch (error) {
    run.close();
    throw error;
  }
}

async function addRoutes(app: FastifyInstance, run: WatchedRun, options: ServerOptions): Promise<void> {
  // A browser can send no header with a page or with server-sent events.
  app.addHook('onRequest', async ({ query, headers, raw }) => {
    const { token } = query as { token?: unknown };
    if (headers.authorization === undefined && typeof token === 'string') {
      raw.headers.authorization = `Bearer ${token}`;
    }
  });
  await requireAccess(app, options, () => false);
  const page = makePage({
    title: `${run.state.name}: bidiseg watch`,
    style: WATCH_STYLE,
    body: html`<div id="app"><p class="kind">Connecting …</p><noscript>This page needs JavaScript.</noscript></div>`,
    script: 'watch',
    libraries: chartLibraries(),
  });
  app.get('/', (_request, reply) => sendPage(reply, page));
  app.get('/pictures/:name', (request, reply) => sendPicture(run, request, reply));

  let viewers = 0;
  app.get('/events', (request, reply) => {
    if (viewers >= MAX_VIEWERS) {
      throw new HttpError(503, `Expected at most ${MAX_VIEWERS} viewers; close one of them`);
    }
    viewers++;
    const gone = new AbortController();
    reply.raw.once('close', () => {
      viewers--;
      gone.abort();
    });
    const { after } = request.query as { after?: unknown };
    const lastId = String(request.headers['last-event-id'] ?? after ?? '');
    return reply
      .header('content-type', 'text/event-stream; charset=utf-8')
      .header('x-accel-buffering', 'no')
      .send(Readable.from(messages(run, lastId, gone.signal), { objectMode: true, highWaterMark: 1 }));
  });
}

/** Makes the server-sent events for a viewer that has everything up to the message `lastId`. */
async function* messages(run: WatchedRun, lastId: string, signal: AbortSignal): AsyncGenerator<string> {
  const [, knownLog = '', knownEnd = '0'] = /^([0-9a-f]{16})\.(\d{1,15})$/.exec(lastId) ?? [];
  let [log, end] = [knownLog, Number(knownEnd)];
  let state = '';
  yield 'retry: 1000\n\n';
  while (!signal.aborted && !run.isClosed) {
    const newState = JSON.stringify(run.state);
    if (newState !== state) yield `event: state\ndata: ${newState}\n\n`;
    state = newState;
    if (run.log.id !== log) {
      // The viewer has another log than the run.
      if (log !== '') yield `event: reset\nid: ${run.log.id}.0\ndata: {}\n\n`;
      [log, end] = [run.log.id, 0];
    }
    const lines = linesAfter(run, end);
    if (lines.length > 0) {
      end = lines.at(-1)!.end;
      yield `id: ${log}.${end}\ndata: [${lines.map(({ text }) => text).join(',')}]\n\n`;
      continue;
    }
    const start = performance.now();
    await run.changed(HEARTBEAT_MS, signal);
    if (performance.now() - start >= HEARTBEAT_MS) yield ': still here\n\n';
  }
}

function linesAfter({ log: { lines } }: WatchedRun, end: number): WatchedRun['log']['lines'] {
  let [low, high] = [0, lines.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lines[middle]!.end > end) high = middle;
    else low = middle + 1;
  }
  return lines.slice(low, low + LINES_A_MESSAGE);
}

async function sendPicture(
  run: WatchedRun,
  { params }: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { name } = params as { name: string };
  if (!/^[\w-]+\.png$/.test(name)) throw new HttpError(404, 'No such picture');
  const file = path.join(run.folder, 'pictures', name);
  try {
    // Nothing but a file of the run: no link and no pipe.
    const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (!(await handle.stat()).isFile()) {
      await handle.close();
      throw new HttpError(404, `${file}: is not a file`);
    }
    return reply.type('image/png').send(handle.createReadStream());
  } catch (error) {
    if (error instanceof HttpError) throw error;
    throw new HttpError(404, `${file}: cannot be read: ${(error as Error).message}`);
  }
}
