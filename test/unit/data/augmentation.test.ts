import assert from 'node:assert/strict';
import {
  coveredPart,
  jittered,
  NO_AUGMENTATION,
  padded,
  randomWindow,
} from '../../../lib/data/augmentation.js';
import { Random } from '../../../lib/data/random.js';

/** Returns a generator that draws the given share of each range. */
function chosen(...shares: number[]): Random {
  const random = new Random(1);
  random.range = (low, high) => low + (high - low) * (shares.shift() ?? 0.5);
  return random;
}

const image = (...data: number[]) => ({ data: Uint8Array.from(data), width: data.length / 3, height: 1 });

async function colors(
  jitter: Partial<typeof NO_AUGMENTATION.colorJitter>,
  shares: number[],
  pixel: number[],
): Promise<number[]> {
  const colorJitter = { ...NO_AUGMENTATION.colorJitter, ...jitter };
  const options = { colorJitter, blur: 0 };
  return [...(await jittered(image(...pixel), options, chosen(...shares))).data];
}

describe('augmentation', () => {
  it('brightness multiplies, contrast moves away from the mean color', async () => {
    assert.deepEqual(await colors({ brightness: 0.5 }, [1], [100, 40, 200]), [150, 60, 255]);
    assert.deepEqual(await colors({ brightness: 0.5 }, [0], [100, 40, 200]), [50, 20, 100]);
    assert.deepEqual(await colors({ contrast: 1 }, [0.5, 0], [100, 40, 200]), [123, 117, 104]);
    // 2x − mean
    assert.deepEqual(await colors({ contrast: 1 }, [0.5, 1], [100, 120, 50]), [77, 123, 0]);
  });

  it('saturation moves away from the gray of the same luma', async () => {
    // 0.299 · 100 + 0.587 · 40 + 0.114 · 200 = 76.18
    assert.deepEqual(await colors({ saturation: 1 }, [0.5, 0.5, 0], [100, 40, 200]), [76, 76, 76]);
    assert.deepEqual(await colors({ saturation: 1 }, [0.5, 0.5, 1], [100, 70, 90]), [119, 59, 99]);
    assert.deepEqual(await colors({ saturation: 1 }, [0.5, 0.5, 1], [90, 90, 90]), [90, 90, 90]);
  });

  it('hue turns red to green to blue by thirds of a circle, and leaves grays', async () => {
    const third = 0.5 + 1 / 3;
    const turned = await colors({ hue: 0.5 }, [0.5, 0.5, 0.5, third], [200, 10, 30]);
    assert.deepEqual(turned, [30, 200, 10]);
    assert.deepEqual(await colors({ hue: 0.5 }, [0.5, 0.5, 0.5, 0.9], [77, 77, 77]), [77, 77, 77]);
  });

  it('changes colors before they are rounded, together', async () => {
    // Brightness 1.5, then contrast 0.5 about the mean: no clipping in between.
    const both = await colors({ brightness: 0.5, contrast: 0.5 }, [1, 0], [200, 200, 200]);
    assert.deepEqual(
      both,
      [123, 117, 104].map((mean) => Math.round(0.5 * 300 + 0.5 * mean)),
    );
  });

  it('blur spreads an edge and keeps a plain area', async () => {
    const edge = image(...Array.from({ length: 16 }, (_, x) => (x < 8 ? [0, 0, 0] : [200, 200, 200])).flat());
    const options = { ...NO_AUGMENTATION, blur: 2 };
    const { data } = await jittered(edge, options, chosen(0.5, 0.5, 0.5, 0.5, 1));
    const reds = Array.from(data.filter((_, i) => i % 3 === 0));
    assert.deepEqual(
      reds,
      reds.toSorted((a, b) => a - b),
    );
    assert(reds[7]! > 50 && reds[8]! < 150 && reds[0] === 0 && reds[15] === 200, `${reds}`);
    assert.equal(await jittered(edge, options, chosen(0.5, 0.5, 0.5, 0.5, 0.1)), edge);
  });

  it('a window lies within what is larger and around what is smaller, every place being as likely', () => {
    const counts = new Map<string, number>();
    const random = new Random('windows');
    for (let draw = 0; draw < 12_000; draw++) {
      const { x, y, width, height } = randomWindow({ width: 5, height: 2 }, { width: 3, height: 4 }, random);
      assert.deepEqual([width, height], [3, 4]);
      counts.set(`${x} ${y}`, (counts.get(`${x} ${y}`) ?? 0) + 1);
    }
    assert.deepEqual([...counts.keys()].sort(), [
      ...['0 -1', '0 -2', '0 0', '1 -1', '1 -2', '1 0', '2 -1', '2 -2', '2 0'],
    ]);
    for (const count of counts.values()) assert(Math.abs(count / 12_000 - 1 / 9) < 0.015);
    const window = { x: 2, y: -1, width: 3, height: 4 };
    assert.deepEqual(coveredPart({ width: 5, height: 2 }, window), { x: 2, y: 0, width: 3, height: 2 });
  });

  it('pads with the mean color and the label to ignore', () => {
    const labels = { data: Uint8Array.of(7), width: 1, height: 1 };
    const sample = { name: 'a', image: image(1, 2, 3), labels };
    const result = padded(sample, { x: 1, y: 0 }, { width: 2, height: 2 }, 255);
    const mean = [123, 117, 104];
    assert.deepEqual([...result.image.data], [...mean, 1, 2, 3, ...mean, ...mean]);
    assert.deepEqual([...result.labels!.data], [255, 7, 255, 255]);
    assert.equal(
      'labels' in padded({ name: 'a', image: image(1, 2, 3) }, { x: 0, y: 0 }, labels, 255),
      false,
    );
  });
});
