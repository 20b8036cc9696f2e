// Makes the picture at the top of the README from a finished run of the demo. It shows the image, the prediction of the
// segmenter trained on the source alone, the prediction of the last segmenter, and the truth.
//   npm run demo && node scripts/readme-picture.mjs [RUN]       default: runs/demo
import { mkdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { readSummary } from '../dist/lib/index.js';
import { readHistory } from '../dist/lib/run/history.js';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const run = path.resolve(process.argv[2] ?? path.join(root, 'runs/demo'));
const output = path.join(root, 'docs/images/demo.png');
const ROWS = 2;
const SCALE = 2;
const GAP = 8;
const CAPTION = 26;
const MAX_BYTES = 200_000;

const { stages } = await readSummary(run);
const segmenters = stages.filter(({ kind }) => kind === 'source-only' || kind === 'segmenter');
const [before, after] = [segmenters[0], segmenters.at(-1)];
const history = await readHistory(run);

/** Cuts one column and row out of a stage's picture, as a PNG. */
async function part(stage, column, row) {
  const { file, columns, rows } = history.get(stage.name).pictures[0];
  const source = sharp(file);
  const { width, height } = await source.metadata();
  // composeGrid() puts 4 pixels of white between the parts.
  const size = { width: (width + 4) / columns.length - 4, height: (height + 4) / rows.length - 4 };
  const left = columns.indexOf(column) * (size.width + 4);
  const image = source.extract({ left, top: row * (size.height + 4), ...size });
  const enlarged = { width: size.width * SCALE, height: size.height * SCALE };
  const kernel = column === 'image' ? 'cubic' : 'nearest';
  return {
    data: await image
      .resize({ ...enlarged, kernel })
      .png()
      .toBuffer(),
    ...enlarged,
  };
}

const percent = (stage) => `${(100 * stage.miou).toFixed(1)} % mIoU`;
const COLUMNS = [
  { stage: before, column: 'image', caption: 'dusk, no labels' },
  { stage: before, column: 'prediction', caption: `trained on day: ${percent(before)}` },
  { stage: after, column: 'prediction', caption: `adapted: ${percent(after)}` },
  { stage: after, column: 'truth', caption: 'truth' },
];
const pieces = [];
let tile;
for (const [x, { stage, column }] of COLUMNS.entries()) {
  for (let y = 0; y < ROWS; y++) {
    const { data, ...size } = await part(stage, column, y);
    tile = size;
    pieces.push({ input: data, left: x * (size.width + GAP), top: CAPTION + y * (size.height + GAP) });
  }
}
const width = COLUMNS.length * (tile.width + GAP) - GAP;
const height = CAPTION + ROWS * (tile.height + GAP) - GAP;
const texts = COLUMNS.map(
  ({ caption }, x) =>
    `<text x="${x * (tile.width + GAP)}" y="17" font-family="DejaVu Sans, sans-serif" font-size="14">${caption}</text>`,
);
const captions = Buffer.from(
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${CAPTION}">${texts.join('')}</svg>`,
);
mkdirSync(path.dirname(output), { recursive: true });
await sharp({ create: { width, height, channels: 3, background: 'white' } })
  .composite([...pieces, { input: captions, left: 0, top: 0 }])
  .png({ palette: true, effort: 10 })
  .toFile(output);
const { size } = statSync(output);
if (size > MAX_BYTES) throw new Error(`${output} has ${size} bytes, expected at most ${MAX_BYTES}`);
console.log(
  `wrote ${path.relative(process.cwd(), output)}: ${width}×${height}, ${Math.round(size / 1000)} kB`,
);
