import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { drain, fromCallback, mapEvents, readAhead } from '../../../lib/support/generators.js';

async function* counting(end: number, closed: { value: boolean }): AsyncGenerator<number, string> {
  try {
    for (let i = 1; i <= end; i++) yield i;
    return 'done';
  } finally {
    closed.value = true;
  }
}

describe('generators of events', () => {
  it('drain: shows every event and gives the result', async () => {
    const seen: number[] = [];
    assert.equal(await drain(counting(3, { value: false }), (event) => seen.push(event)), 'done');
    assert.deepEqual(seen, [1, 2, 3]);
  });

  it('mapEvents: changes events and keeps the result', async () => {
    const seen: string[] = [];
    const mapped = mapEvents(counting(2, { value: false }), async (event) => `#${event}`);
    assert.equal(await drain(mapped, (event) => seen.push(event)), 'done');
    assert.deepEqual(seen, ['#1', '#2']);
  });

  it('mapEvents: ends its source when the consumer leaves or the change fails', async () => {
    const left = { value: false };
    for await (const _ of mapEvents(counting(9, left), String)) break;
    assert.equal(left.value, true);
    const failed = { value: false };
    const failing = mapEvents(counting(9, failed), () => Promise.reject(new Error('no')));
    await assert.rejects(drain(failing), /no/);
    assert.equal(failed.value, true);
  });

  it('fromCallback: passes on every event, those of the last moment as well', async () => {
    const events = fromCallback<number, string>(async (emit) => {
      emit(1);
      await sleep(5);
      emit(2);
      emit(3);
      return 'done';
    });
    const seen: number[] = [];
    assert.equal(await drain(events, (event) => seen.push(event)), 'done');
    assert.deepEqual(seen, [1, 2, 3]);
  });

  it('fromCallback: passes on a failure after the events before it', async () => {
    const seen: number[] = [];
    const events = fromCallback<number, void>(async (emit) => {
      emit(1);
      throw new Error('broken');
    });
    await assert.rejects(
      drain(events, (event) => seen.push(event)),
      /broken/,
    );
    assert.deepEqual(seen, [1]);
  });

  it('fromCallback: aborts the work when the consumer leaves, and waits for its end', async () => {
    let ended = false;
    const events = fromCallback<number, void>(async (emit, signal) => {
      emit(1);
      await sleep(10_000, undefined, { signal }).catch(() => {});
      await sleep(5);
      ended = true;
    });
    for await (const _ of events) break;
    assert.equal(ended, true);
  });

  describe('readAhead', () => {
    it('reads in order, a few ahead and no more', async () => {
      let reading = 0;
      let most = 0;
      const read = async (index: number) => {
        most = Math.max(most, ++reading);
        await sleep(Math.random() * 3);
        return index;
      };
      const seen: number[] = [];
      for await (const item of readAhead(10, read, { depth: 3 })) {
        seen.push(item);
        reading--;
      }
      assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      assert.equal(most, 4);
    });

    it('reports a failure when its turn comes', async () => {
      const read = (index: number) =>
        index === 2 ? Promise.reject(new Error('third')) : Promise.resolve(index);
      const seen: number[] = [];
      await assert.rejects(async () => {
        for await (const item of readAhead(5, read)) {
          seen.push(item);
          await sleep(2);
        }
      }, /third/);
      assert.deepEqual(seen, [0, 1]);
    });

    it('stops with the signal’s reason, and gives nothing for nothing', async () => {
      const controller = new AbortController();
      const items = readAhead(5, (index) => Promise.resolve(index), { signal: controller.signal });
      await items.next();
      controller.abort(new Error('enough'));
      await assert.rejects(items.next(), /enough/);
      assert.equal((await readAhead(0, () => assert.fail()).next()).done, true);
    });
  });
});
