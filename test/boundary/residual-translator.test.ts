import assert from 'node:assert/strict';
import { Tensor, Translator } from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';

const SHAPE = [1, 3, 16, 24];
const PLANE = 16 * 24;

describe('a residual translator', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  const create = (residual: boolean) =>
    Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, residual, dtype: 'float64' });
  const image = Float64Array.from({ length: 3 * PLANE }, (_, index) => Math.cos(index * index));
  /** Each channel minus its mean, divided by its standard deviation. */
  const normalized = image.map((value, index) => {
    const plane = image.slice(Math.floor(index / PLANE) * PLANE).slice(0, PLANE);
    const mean = plane.reduce((sum, x) => sum + x) / PLANE;
    const variance = plane.reduce((sum, x) => sum + (x - mean) ** 2, 0) / PLANE;
    return (value - mean) / Math.sqrt(variance + 1e-5);
  });
  const translated = async (translator: Translator) =>
    (await (await translator.toTarget.forward(Tensor.from(image, SHAPE))).data()) as Float64Array;

  it('starts with the normalized image', async () => {
    using translator = await create(true);
    for (const [index, value] of (await translated(translator)).entries()) {
      const expected = Math.tanh(0.5 * normalized[index]!);
      assert.ok(Math.abs(value - expected) < 1e-12, `${value} is not ${expected}`);
    }
  });

  it('adds the output of the plain generator with the same weights before tanh', async () => {
    using plain = await create(false);
    using residual = await create(true);
    const weight = [0.5, -1, 2];
    const bias = [0, 0.25, -0.5];
    const skip = (name: string, values: number[]) => ({
      name,
      tensor: Tensor.from(Float64Array.from(values), [3]).handle,
    });
    await residual.toTarget.loadState([
      ...(await plain.toTarget.state()),
      skip('skip_weight', weight),
      skip('skip_bias', bias),
    ]);
    const plainly = await translated(plain);
    for (const [index, value] of (await translated(residual)).entries()) {
      const channel = Math.floor(index / PLANE);
      const passed = weight[channel]! * normalized[index]! + bias[channel]!;
      const expected = Math.tanh(Math.atanh(plainly[index]!) + passed);
      assert.ok(Math.abs(value - expected) < 1e-12, `${value} is not ${expected}`);
    }
  });

  it('is recognized from its file', async () => {
    using translator = await create(true);
    const file = folder.path('residual.safetensors');
    await translator.save(file);
    using again = await Translator.fromFile(file);
    assert.equal(again.options.residual, true);
  });
});
