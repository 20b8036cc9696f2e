// A service that trains. Trainings start over HTTP and report their progress as server-sent events. The newest segmenter
// answers POST /segment meanwhile. SIGTERM saves the state of a running training and ends the process within seconds.
// Starting the same training again resumes it.
//   npm install bidiseg fastify
//   node training-service.mjs CONFIG RUNS_FOLDER [PORT]
//   curl -X PUT http://127.0.0.1:3000/trainings/street
//   curl -N http://127.0.0.1:3000/trainings/street/events
import { EventEmitter, on } from 'node:events';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { BatchedPredictor, loadConfig, Segmenter, segment, stageWeights, train } from 'bidiseg';
import fastify from 'fastify';

const [configFile, runs, port = '3000'] = process.argv.slice(2);
const app = fastify({ bodyLimit: 16 * 2 ** 20 });
app.addContentTypeParser(/^image\//, { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

/** Aborts all work when the process must end. Every long call takes a signal. */
const end = new AbortController();
/** Trainings of this process by name. */
const trainings = new Map();
/** Segmenter of the last stage that ended, and its predictor. */
let newest;

function startTraining(name) {
  const training = {
    status: 'running',
    last: undefined,
    events: new EventEmitter(),
    stop: new AbortController(),
  };
  training.events.setMaxListeners(0);
  training.done = run(name, training)
    .then(() => ({ status: 'complete' }))
    .catch((error) => ({
      status: training.stop.signal.aborted || end.signal.aborted ? 'stopped' : 'failed',
      error,
    }))
    .then(({ status, error }) => {
      if (status === 'failed') console.error(error);
      Object.assign(training, { status, error: error?.message });
      training.events.emit('end');
    });
  trainings.set(name, training);
}

async function run(name, training) {
  const output = path.join(runs, name);
  const config = await loadConfig(configFile, { set: [`output=${output}`] });
  const signal = AbortSignal.any([end.signal, training.stop.signal]);
  const resume = existsSync(path.join(output, 'config.yaml'));
  for await (const event of train(config, { signal, resume })) {
    training.last = event;
    training.events.emit('event', event);
    if (event.type === 'stage-end' && ['source-only', 'segmenter'].includes(event.record.kind)) {
      await serve(stageWeights(output, event.record), config.sizes.evaluation);
    }
  }
}

/** Puts a segmenter in the place of the last one, which first finishes its requests. */
async function serve(weights, [width, height]) {
  const segmenter = await Segmenter.fromFile(weights);
  const old = newest;
  newest = {
    segmenter,
    predictor: new BatchedPredictor(segmenter, { maxQueue: 64 }),
    size: { width, height },
  };
  await old?.predictor.drain();
  old?.segmenter.dispose();
}

app.put('/trainings/:name', async ({ params: { name } }, reply) => {
  if (!/^[\w-]{1,64}$/.test(name))
    return reply.code(400).send({ error: 'expected a name of letters and digits' });
  if (trainings.get(name)?.status === 'running') return reply.code(409).send({ error: 'it is running' });
  startTraining(name);
  return reply.code(202).send({ events: `/trainings/${name}/events` });
});

app.delete('/trainings/:name', async ({ params: { name } }, reply) => {
  const training = trainings.get(name);
  if (!training) return reply.code(404).send({ error: 'no such training' });
  training.stop.abort(new Error('stopped by a client'));
  await training.done;
  return { status: training.status };
});

app.get('/trainings/:name/events', async ({ params: { name } }, reply) => {
  const training = trainings.get(name);
  if (!training) return reply.code(404).send({ error: 'no such training' });
  reply.headers({ 'content-type': 'text/event-stream', 'cache-control': 'no-store', connection: 'close' });
  return reply.send(Readable.from(eventsOf(training)));
});

/** Yields the last event of a training and those to come as text, and at its end its status. */
async function* eventsOf(training) {
  if (training.status === 'running') {
    const events = on(training.events, 'event', { close: ['end'] });
    if (training.last) yield eventText(training.last.type, training.last);
    for await (const [event] of events) yield eventText(event.type, event);
  }
  const { status, error } = training;
  yield eventText('status', { status, error });
}

function eventText(type, data) {
  return `event: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
}

app.post('/segment', async (request, reply) => {
  if (!newest) return reply.code(503).send({ error: 'no stage has ended yet' });
  const { predictor, size } = newest;
  const options = { size, output: 'color', format: 'png', maxPixels: 2 ** 25, signal: end.signal };
  const { data } = await segment(predictor, request.body, options);
  return reply.type('image/png').send(data);
});

// Otherwise a connection whose last request was running at the end would be kept open for a minute.
app.addHook('onSend', async (_request, reply) => {
  if (end.signal.aborted) reply.header('connection', 'close');
});

for (const name of ['SIGTERM', 'SIGINT']) {
  process.once(name, async () => {
    end.abort(new Error(`the process received ${name}`));
    await Promise.all([...trainings.values()].map(({ done }) => done)); // their states are saved then
    await app.close();
    newest?.segmenter.dispose();
  });
}

console.log(`listening on ${await app.listen({ port: Number(port) })}`);
