import type { PictureColumn } from '../pipeline/events.js';
import { classLabel, type Section, segmenters, startOf } from './common.js';
import { type Html, html } from './html.js';
import type { RunData, StageData } from './run-data.js';
import { cutTiles, type Tile } from './tiles.js';

/** Column of tiles under one title. */
interface Column {
  title: string;
  /** Content of the column, as part of a picture's description. */
  what: string;
  kind: PictureColumn;
  /** Tiles by the name of their image. */
  tiles: Map<string, Tile>;
}

/** Renders target images T with their predictions before and after adaptation, pseudo-labels and truth. */
export async function predictionSection(run: RunData): Promise<Section | null> {
  const all = segmenters(run);
  const first = all[0];
  const last = all.at(-1);
  if (!first || !last) return null;
  const pseudoLabels = run.stages.filter(({ stage, record }) => record && stage.kind === 'pseudo-labels');
  const newest = pseudoLabels.at(-1);
  const before = await column(first, 'prediction', first.stage.label, first === last ? '' : 'before');
  const after = first === last ? null : await column(last, 'prediction', last.stage.label, 'after');
  const columns = [
    await column(last, 'image', 'T', ''),
    before,
    after,
    newest ? await column(newest, 'pseudo-label', newest.stage.label, 'kept pseudo-labels') : null,
    await column(last, 'truth', 'truth', ''),
  ].filter((one) => one !== null);
  if (columns.length < 2) return null;

  const middle = [];
  for (const stage of all) middle.push(await column(stage, 'prediction', stage.stage.label, ''));
  for (const stage of pseudoLabels) middle.push(await column(stage, 'pseudo-label', stage.stage.label, ''));
  const others = middle.filter((one) => one !== null);
  const hasMore = others.length > columns.length - 2;
  const body = html`${legend(run, newest !== undefined)}
    ${grid(columns, 'predictions')}
    ${hasMore && html`<details><summary>Every segmenter and every set of pseudo-labels</summary>${grid(others, 'every')}</details>`}`;
  const note =
    'Images of the target domain T and the predictions of the segmenters.' +
    (newest
      ? ' Pseudo-labels are shown as self-training would keep them on these images. Pixels that pass the thresholds of the training images are colored. The others are gray.'
      : '');
  return { id: 'pictures', title: 'Pictures', note, body };
}

/** Renders S, S′, F⁻¹(S′) and T, T′, F(T′) of each round's translator. */
export async function translationSection(run: RunData): Promise<Section | null> {
  const parts: Html[] = [];
  const matches = run.stages.some(({ stage }) => stage.kind === 'translate' && stage.translatorFrom === null);
  for (const data of run.stages.filter(({ stage }) => ['translator', 'translate'].includes(stage.kind))) {
    const source = await translations(data, 'source', {
      image: 'S',
      translated: matches ? 'S′' : 'S′ = F(S)',
      reconstructed: 'F⁻¹(S′)',
      reference: 'T',
    });
    const target = await translations(data, 'target', {
      image: 'T',
      translated: 'T′ = F⁻¹(T)',
      reconstructed: 'F(T′)',
    });
    if (source || target)
      parts.push(
        html`<h3>${data.stage.label}${startOf(run, data.stage)}</h3><div class="pair">${source}${target}</div>`,
      );
  }
  if (parts.length === 0) return null;
  return {
    id: 'translation',
    title: 'Translation',
    note: matches
      ? 'Source images S, the images S′ after histogram matching, and the target images T that they were matched to.'
      : 'F makes source images look like target images. F⁻¹ makes target images look like source images. An image translated there and back should equal the original.',
    body: html`${parts}`,
  };
}

async function translations(
  data: StageData,
  domain: 'source' | 'target',
  titles: Partial<Record<PictureColumn, string>>,
): Promise<Html | null> {
  const columns = [];
  for (const [kind, title] of Object.entries(titles)) {
    columns.push(await column(data, kind as PictureColumn, title, '', domain));
  }
  const found = columns.filter((one) => one !== null);
  return found.length > 0 ? grid(found, 'translations') : null;
}

async function column(
  { history }: StageData,
  kind: PictureColumn,
  title: string,
  what: string,
  domain: 'source' | 'target' = 'target',
): Promise<Column | null> {
  const picture = history?.pictures.find((one) => one.domain === domain && one.columns.includes(kind));
  if (!picture) return null;
  const tiles = await cutTiles(picture, kind);
  if (tiles.length === 0) return null;
  return { title, what, kind, tiles: new Map(tiles.map((tile) => [tile.name, tile])) };
}

/** Renders a grid with a row for each image of the first column. */
function grid(columns: readonly Column[], style: string): Html {
  const names = [...columns[0]!.tiles.keys()];
  return html`<div class="rows">${names.map(
    (name) =>
      html`<div class="grid ${style}" style="--columns:${columns.length}">${columns.map((column) =>
        figure(name, column),
      )}</div>`,
  )}</div>`;
}

function figure(name: string, { title, what, kind, tiles }: Column): Html {
  const caption = html`<figcaption><b>${title}</b>${what && ` ${what}`}</figcaption>`;
  const tile = tiles.get(name);
  if (!tile) return html`<figure class="${kind}">${caption}</figure>`;
  const { source, width, height } = tile;
  const description = `${name}: ${title} ${what}`.trim();
  return html`<figure class="${kind}">${caption}<img src="${source}" width="${width}" height="${height}" alt="${description}" title="${name}"></figure>`;
}

/** Renders the legend of the colors. */
function legend({ summary: { classes }, palette }: RunData, hasPseudoLabels: boolean): Html {
  return html`<ul class="legend">
    ${classes.map((name, index) => html`<li>${classLabel(name, index, palette)}</li>`)}
    <li><i class="swatch unlabeled"></i>no label</li>
    ${hasPseudoLabels && html`<li><i class="swatch dropped"></i>not kept</li>`}
  </ul>`;
}
