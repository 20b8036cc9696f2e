import assert from 'node:assert/strict';
import { Tensor, Translator } from 'bidiseg';
import { temporaryFolder } from '../helpers/folder.js';

const SHAPE = [1, 3, 16, 24];
const WHITE = 0.9;

describe('a residual translator', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  const create = (residual: boolean) =>
    Translator.create({ blocks: 6, baseWidth: 4, discriminatorWidth: 4, residual, dtype: 'float64' });
  const image = Float64Array.from({ length: 3 * 16 * 24 }, (_, index) => Math.cos(index * index));
  image[0] = 1;
  image[1] = -1;

  it('starts as the identity', async () => {
    using translator = await create(true);
    for (const generator of [translator.toTarget, translator.toSource]) {
      const output = (await (await generator.forward(Tensor.from(image, SHAPE))).data()) as Float64Array;
      for (const [index, value] of output.entries()) assert.ok(Math.abs(value - image[index]!) < 1e-12);
    }
  });

  it('adds, before tanh, what the plain generator of the same weights gives', async () => {
    using plain = await create(false);
    using residual = await create(true);
    const file = folder.path('plain.safetensors');
    await plain.save(file);
    await residual.load(file);
    const input = Tensor.from(image, SHAPE);
    const change = (await (await plain.toTarget.forward(input)).data()) as Float64Array;
    const output = (await (await residual.toTarget.forward(input)).data()) as Float64Array;
    for (const [index, value] of output.entries()) {
      const expected = Math.tanh(Math.atanh(change[index]!) + Math.atanh(WHITE * image[index]!)) / WHITE;
      assert.ok(Math.abs(value - expected) < 1e-12, `${value} is not ${expected}`);
    }
  });

  it('is known again from its file', async () => {
    using translator = await create(true);
    const file = folder.path('residual.safetensors');
    await translator.save(file);
    using again = await Translator.fromFile(file);
    assert.equal(again.options.residual, true);
  });
});
