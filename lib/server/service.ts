import type { FastifyInstance } from 'fastify';
import { requireAccess } from './access.js';
import { HttpError } from './http-error.js';
import { createServer, listen } from './http-server.js';
import { sendPage } from './page.js';
import { addSegmentRoute } from './segment-route.js';
import { ServedModel } from './served-model.js';
import { ServiceMetrics } from './service-metrics.js';
import type { ServiceOptions } from './service-options.js';
import { servicePage } from './service-page.js';

/** HTTP service that segments images. */
export interface Service {
  /** Address of the start page. */
  url: string;
  /** Loads the weights again. The old ones stay if that fails. @throws what loading throws */
  reload(): Promise<void>;
  /** Answers what was accepted, accepts nothing more, and releases the network. */
  close(): Promise<void>;
}

/**
 * Starts the service of `bidiseg serve`. docs/guide/serving.md describes its routes.
 *
 * @throws DataError when the weights cannot be read or the address cannot be used
 * @throws InvalidArgumentError when other machines could reach the server without a token
 */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { limit, deadlineMs, maxQueue, size, precision, timeoutMs, maxBytes } = options;
  const app = createServer(options, {
    bodyLimit: maxBytes,
    requestTimeout: timeoutMs,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Node looks for slow clients at this interval.
    http: {
      headersTimeout: timeoutMs,
      connectionsCheckingInterval: Math.min(Math.ceil(timeoutMs / 4), 5000),
    },
  });
  const model = await ServedModel.open({
    load: options.load,
    batching: { limit, deadlineMs, maxQueue },
    // A network that cannot predict is noticed before the first request. The first call also prepares the weights.
    prepare: async ({ network }) => {
      const { width, height } = size ?? { width: 64, height: 64 };
      const images = new Uint8Array(3 * width * height);
      await network.predict(images, { count: 1, width, height, order: 'probabilities', precision });
    },
  });
  try {
    const metrics = new ServiceMetrics(() => model.current.predictor.stats());
    const state = { isDraining: false };
    await addRoutes(app, model, metrics, state, options);
    const url = await listen(app, options);
    return {
      url,
      reload: async () => {
        await model.reload().catch((error: unknown) => {
          metrics.reloaded(false);
          throw error;
        });
        metrics.reloaded(true);
      },
      close: () => close(app, model, state, timeoutMs),
    };
  } catch (error) {
    model.close();
    await app.close();
    throw error;
  }
}

/** Time that a connection without requests stays open, longer than those of common proxies. */
const KEEP_ALIVE_MS = 75_000;

async function addRoutes(
  app: FastifyInstance,
  model: ServedModel,
  metrics: ServiceMetrics,
  state: { isDraining: boolean },
  options: ServiceOptions,
): Promise<void> {
  const open = ['/', '/healthz', '/readyz'];
  await requireAccess(app, options, ({ routeOptions }) => open.includes(routeOptions.url ?? ''));
  app.addHook('onSend', async (_request, reply) => {
    // A client that does not read its answer loses the connection.
    reply.raw.setTimeout(options.timeoutMs);
    if (state.isDraining) reply.header('connection', 'close');
  });
  const page = servicePage({ needsToken: options.token !== undefined });
  app.get('/', (_request, reply) => sendPage(reply, page));
  app.get('/healthz', async () => ({ status: 'alive' }));
  app.get('/readyz', async () => {
    if (state.isDraining) throw new HttpError(503, 'The server is ending');
    return { status: 'ready' };
  });
  app.get('/metrics', async (_request, reply) => reply.type(metrics.contentType).send(await metrics.text()));
  addSegmentRoute(app, { model, metrics, options });
}

async function close(
  app: FastifyInstance,
  model: ServedModel,
  state: { isDraining: boolean },
  timeoutMs: number,
): Promise<void> {
  state.isDraining = true;
  // A client that sends or reads slowly must not keep the process alive for longer than one that is served.
  const timer = setTimeout(() => app.server.closeAllConnections(), timeoutMs);
  await app.close();
  clearTimeout(timer);
  model.close();
}
