import { Counter, collectDefaultMetrics, Gauge, Histogram, type Metric, Registry } from 'prom-client';
import type { BatchingStats } from '../inference/batched-predictor.js';
import type { Histogram as Distribution } from '../inference/histogram.js';
import { liveObjects, memoryInUse } from '../native/device.js';

/** Metrics of a service in Prometheus' text format. Node's own (event loop, heap, resident set) are among them. */
export class ServiceMetrics {
  readonly #registry = new Registry();
  readonly #requests: Counter<'code'>;
  readonly #seconds: Histogram<'output'>;
  readonly #reloads: Counter<'outcome'>;
  readonly contentType = this.#registry.contentType;

  /** Requests whose body is here and whose answer is not. */
  accepted = 0;

  /** @param stats returns the counts of the predictor in use. They begin anew when weights are reloaded */
  constructor(stats: () => BatchingStats) {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    this.#requests = new Counter({
      name: 'bidiseg_requests_total',
      help: 'Answered requests to /segment, by HTTP status; 499 if the client had gone',
      labelNames: ['code'],
      registers,
    });
    this.#seconds = new Histogram({
      name: 'bidiseg_request_seconds',
      help: 'Time from the head of a request to /segment to its answer, status 200 only',
      labelNames: ['output'],
      buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    });
    this.#reloads = new Counter({
      name: 'bidiseg_reloads_total',
      help: 'Reloads of the weights, by outcome',
      labelNames: ['outcome'],
      registers,
    });
    const gauge = (name: string, help: string, value: () => number) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.set(value());
        },
      });
    gauge(
      'bidiseg_accepted_requests',
      'Requests whose image is here and whose answer is not',
      () => this.accepted,
    );
    gauge('bidiseg_queue_images', 'Images that wait to be computed', () => stats().waiting);
    gauge('bidiseg_pending_predictions', 'Predictions that have no result yet', () => stats().pending);
    gauge('bidiseg_native_bytes', 'Bytes in tensors on the host', memoryInUse);
    new Gauge({
      name: 'bidiseg_native_objects',
      help: 'Native objects that are alive',
      labelNames: ['class'],
      registers,
      collect() {
        // `bytes` is no class but what the garbage collector was told.
        const { bytes: _, ...counts } = liveObjects();
        for (const [name, count] of Object.entries(counts)) this.set({ class: name }, count);
      },
    });
    const histogram = (name: string, help: string, read: () => Distribution) =>
      this.#registry.registerMetric(new Measured(name, help, read) as unknown as Metric);
    histogram('bidiseg_queue_seconds', 'Time that predictions waited', () => stats().queueSeconds);
    histogram('bidiseg_compute_seconds', 'Time that batches took to compute', () => stats().computeSeconds);
    histogram('bidiseg_batch_images', 'Number of images of the batches', () => stats().batchImages);
  }

  answered(code: number): void {
    this.#requests.inc({ code });
  }

  segmented(output: string, seconds: number): void {
    this.#seconds.observe({ output }, seconds);
  }

  reloaded(isGood: boolean): void {
    this.#reloads.inc({ outcome: isGood ? 'done' : 'failed' });
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }
}

/** Metric whose values are counted elsewhere. */
class Measured {
  readonly type = 'histogram';
  readonly aggregator = 'sum';

  constructor(
    readonly name: string,
    readonly help: string,
    readonly read: () => Distribution,
  ) {}

  reset(): void {}

  async get(): Promise<object> {
    const { name, help, type, aggregator } = this;
    const { bounds, counts, count, sum } = this.read();
    const values = [
      ...bounds.map((le, index) => ({ metricName: `${name}_bucket`, labels: { le }, value: counts[index]! })),
      { metricName: `${name}_bucket`, labels: { le: '+Inf' }, value: count },
      { metricName: `${name}_sum`, labels: {}, value: sum },
      { metricName: `${name}_count`, labels: {}, value: count },
    ];
    return { name, help, type, aggregator, values };
  }
}
