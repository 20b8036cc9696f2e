import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { LogTail } from '../../../lib/server/log-tail.js';
import { temporaryFolder } from '../../cli/command-line.js';

const line = (value: number) => `${JSON.stringify({ time: `t${value}`, value })}\n`;
const valuesOf = ({ lines }: LogTail) =>
  lines.map(({ text }) => (JSON.parse(text) as { value: number }).value);

describe('the tail of an event log', () => {
  const folder = temporaryFolder();
  let file: string;
  let tail: LogTail;
  beforeEach(() => {
    file = path.join(folder.path, 'events.jsonl');
    rmSync(file, { force: true });
    tail = new LogTail(file);
  });

  it('has no lines while there is no file', async () => {
    assert.equal(await tail.poll(), false);
    assert.deepEqual([tail.lines, tail.id], [[], '']);
  });

  it('takes each line once, whatever the pieces it is written in', async () => {
    const text = Array.from({ length: 20 }, (_, i) => line(i)).join('');
    for (const size of [1, 7, 64, 1000]) {
      rmSync(file, { force: true });
      tail = new LogTail(file);
      for (let from = 0; from < text.length; from += size) {
        appendFileSync(file, text.slice(from, from + size));
        await tail.poll();
        const whole = text.slice(0, from + size).split('\n').length - 1;
        assert.equal(tail.lines.length, whole);
      }
      assert.deepEqual(valuesOf(tail), [...Array(20).keys()]);
      assert.equal(tail.lines.at(-1)!.end, Buffer.byteLength(text));
    }
  });

  it('counts bytes, not characters', async () => {
    const first = '{"label":"S′(1) Ŷ"}\n';
    writeFileSync(file, first + line(1));
    await tail.poll();
    assert.equal(tail.lines[0]!.end, Buffer.byteLength(first));
    assert.equal(JSON.parse(tail.lines[0]!.text).label, 'S′(1) Ŷ');
  });

  it('leaves out half a line of a process that died, and other text', async () => {
    writeFileSync(file, `${line(1)}{"time":"t2","val\n${line(3)}17\nnull\n${line(4)}`);
    await tail.poll();
    assert.deepEqual(valuesOf(tail), [1, 3, 4]);
  });

  it('reads lines larger than a piece of the file', async () => {
    const long = JSON.stringify({ value: 1, text: 'x'.repeat(700_000) });
    writeFileSync(file, `${long}\n${line(2)}`);
    await tail.poll();
    assert.deepEqual(valuesOf(tail), [1, 2]);
  });

  it('notices another log in the same place, even of the same size and inode', async () => {
    writeFileSync(file, line(1) + line(2));
    await tail.poll();
    const { id } = tail;
    writeFileSync(file, line(3) + line(4));
    assert.equal(await tail.poll(), true);
    assert.deepEqual(valuesOf(tail), [3, 4]);
    assert.notEqual(tail.id, id);
  });

  it('forgets a log that is gone', async () => {
    writeFileSync(file, line(1));
    await tail.poll();
    rmSync(file);
    assert.equal(await tail.poll(), true);
    assert.deepEqual([tail.lines, tail.id], [[], '']);
    assert.equal(await tail.poll(), false);
  });

  it('refuses a link, and does not wait for a pipe', async () => {
    symlinkSync('/etc/hostname', file);
    await assert.rejects(tail.poll(), /events\.jsonl: cannot be read/);
    rmSync(file);
    execFileSync('mkfifo', [file]);
    await assert.rejects(tail.poll(), /events\.jsonl: is a pipe, socket or device, expected a file/);
  });
});
