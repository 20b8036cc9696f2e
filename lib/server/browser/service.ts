// The start page of `bidiseg serve`. It sends a picture to /segment and paints the labels over it.

interface ClassShare {
  index: number;
  name: string;
  color: string;
  pixels: number;
  share: number;
}

interface Segmentation {
  width: number;
  height: number;
  classes: ClassShare[];
  /** PNG of class indices in base64. */
  labels: string;
}

const byId = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const drop = byId('drop');
const file = byId<HTMLInputElement>('file');
const message = byId('message');
const picture = byId<HTMLCanvasElement>('picture');
const painted = byId<HTMLCanvasElement>('labels');
const pointer = byId('pointer');
const opacity = byId<HTMLInputElement>('opacity');

/** What is shown now. */
let shown: { result: Segmentation; labels: Uint8ClampedArray } | undefined;
let running: AbortController | undefined;

function say(text: string, isFailure = false): void {
  message.textContent = text;
  message.classList.toggle('failed', isFailure);
}

async function segment(image: File): Promise<void> {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  say(`Segmenting ${image.name} …`);
  const start = performance.now();
  try {
    const token = document.getElementById('token') as HTMLInputElement | null;
    const response = await fetch('segment?output=json', {
      method: 'POST',
      body: image,
      signal: mine.signal,
      headers: {
        'content-type': image.type.startsWith('image/') ? image.type : 'application/octet-stream',
        ...(token && { authorization: `Bearer ${token.value}` }),
      },
    });
    if (!response.ok) return say(await failureOf(response), true);
    const result = (await response.json()) as Segmentation;
    await show(image, result);
    const seconds = (performance.now() - start) / 1000;
    say(`${image.name}, ${result.width} × ${result.height} pixels, ${seconds.toFixed(2)} s`);
  } catch (error) {
    if (!mine.signal.aborted) say(`The server could not be reached: ${(error as Error).message}`, true);
  }
}

async function failureOf(response: Response): Promise<string> {
  if (response.status === 401) return 'The token is missing or wrong. Enter it above.';
  const { message: text } = (await response.json().catch(() => ({}))) as { message?: string };
  return text ?? `The server answered ${response.status}`;
}

async function show(image: File, result: Segmentation): Promise<void> {
  const { width, height } = result;
  for (const canvas of [picture, painted]) Object.assign(canvas, { width, height });
  byId('stage').style.width = `min(100%, ${(75 * width) / height}vh)`;
  // The service reads the stored pixels, so no tag may rotate the picture here.
  const stored = await createImageBitmap(image, { imageOrientation: 'none' }).catch(() => undefined);
  const context = picture.getContext('2d')!;
  // A browser may know fewer formats, such as no TIFF.
  if (stored) context.drawImage(stored, 0, 0, width, height);
  else context.clearRect(0, 0, width, height);
  const bytes = Uint8Array.from(atob(result.labels), (character) => character.charCodeAt(0));
  const png = await createImageBitmap(new Blob([bytes], { type: 'image/png' }), {
    colorSpaceConversion: 'none',
  });
  const paint = painted.getContext('2d', { willReadFrequently: true })!;
  paint.drawImage(png, 0, 0);
  shown = { result, labels: paint.getImageData(0, 0, width, height).data };
  colorize();
  listClasses(result);
  const save = byId<HTMLAnchorElement>('save');
  save.href = `data:image/png;base64,${result.labels}`;
  save.download = `${image.name.replace(/\.[^.]*$/, '')}-labels.png`;
  byId('result').hidden = false;
  drop.classList.add('small');
}

/** Paints the classes in their colors, or only one of them. */
function colorize(only?: number): void {
  if (!shown) return;
  const { result, labels } = shown;
  const context = painted.getContext('2d')!;
  const image = context.createImageData(result.width, result.height);
  const colors = result.classes.map(({ color }) => Number.parseInt(color.slice(1), 16));
  for (let at = 0; at < labels.length; at += 4) {
    const label = labels[at]!;
    const color = colors[label];
    if (color === undefined || (only !== undefined && label !== only)) continue;
    image.data[at] = color >> 16;
    image.data[at + 1] = (color >> 8) & 255;
    image.data[at + 2] = color & 255;
    image.data[at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function listClasses({ classes }: Segmentation): void {
  const items = [...classes]
    .sort((one, other) => other.pixels - one.pixels)
    .map(({ index, name, color, pixels, share }) => {
      const item = document.createElement('li');
      item.tabIndex = pixels > 0 ? 0 : -1;
      item.classList.toggle('absent', pixels === 0);
      const swatch = document.createElement('i');
      swatch.className = 'swatch';
      swatch.style.background = color;
      const label = document.createElement('span');
      label.textContent = name;
      label.title = name;
      const number = document.createElement('b');
      number.textContent = pixels > 0 ? `${(100 * share).toFixed(1)} %` : '–';
      item.append(swatch, label, number);
      for (const begin of ['pointerenter', 'focus']) item.addEventListener(begin, () => colorize(index));
      for (const end of ['pointerleave', 'blur']) item.addEventListener(end, () => colorize());
      return item;
    });
  byId('classes').replaceChildren(...items);
}

/** Names the class under the pointer. */
painted.addEventListener('pointermove', (event) => {
  if (!shown) return;
  const { result, labels } = shown;
  const box = painted.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * result.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * result.height);
  const label = labels[4 * (y * result.width + x)];
  pointer.textContent = result.classes.find(({ index }) => index === label)?.name ?? 'no class';
  pointer.style.left = `${Math.min(event.clientX - box.left, box.width - pointer.offsetWidth - 16)}px`;
  pointer.style.top = `${event.clientY - box.top}px`;
  pointer.style.display = 'block';
});
painted.addEventListener('pointerleave', () => {
  pointer.style.display = 'none';
});

opacity.addEventListener('input', () => {
  painted.style.opacity = String(Number(opacity.value) / 100);
});
file.addEventListener('change', () => {
  const [chosen] = file.files ?? [];
  if (chosen) void segment(chosen);
  // The same picture may be chosen again.
  file.value = '';
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  drop.classList.add('over');
});
addEventListener('dragleave', () => drop.classList.remove('over'));
addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  const [dropped] = event.dataTransfer?.files ?? [];
  if (dropped) void segment(dropped);
});
addEventListener('paste', (event) => {
  const [pasted] = event.clipboardData?.files ?? [];
  if (pasted) void segment(pasted);
});

export {};
