// Losses and gradients of one step. `size.step` names the benchmark of the step.

export async function create(size) {
  const { create: createStep } = await import(`./${size.step}.mjs`);
  const step = await createStep(size);

  async function result() {
    return { ...(await step.result()), gradients: await firstMoments(await step.state()) };
  }

  const { load, prepare, run, dispose } = step;
  return { load, prepare, run, result, dispose };
}

/** After one step from zero, these are the gradients, but for a factor that is the same on all sides. */
async function firstMoments(state) {
  const found = [];
  for (const [key, tensor] of state) {
    const name = /^(?:segmenter|generator)_optimizer\.(?:exp_avg|momentum_buffer)\.(.+)$/.exec(key)?.[1];
    if (name !== undefined) found.push([name, await tensor.data()]);
    tensor.dispose();
  }
  // By code units, as Python sorts.
  found.sort(([a], [b]) => (a < b ? -1 : 1));
  const data = new Float64Array(found.reduce((sum, [, values]) => sum + values.length, 0));
  let at = 0;
  for (const [, values] of found) {
    data.set(values, at);
    at += values.length;
  }
  return { data, shape: [data.length] };
}
