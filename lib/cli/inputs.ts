import { existsSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import { globSync, isDynamicPattern } from 'tinyglobby';
import { IMAGE_EXTENSIONS } from '../data/image-bytes.js';
import { DataError } from '../support/errors.js';
import { byCodeUnit, isVisible, listFiles } from '../support/folders.js';
import { filesIn, liesInOutput } from './output-folder.js';

/** Image to read, and the name of its results: without extension, with '/' between folders. */
export interface InputImage {
  file: string;
  name: string;
}

/**
 * Lists the images of files, folders and glob patterns, in a fixed order. Searches folders to any depth, as `listFiles`
 * does. Names keep the structure below a folder, or below the part of a pattern without wildcards. Leaves `outputFolder`
 * out, also behind a link, so that a second run does not read its own results. It is an error if nothing is left. Reads
 * folders only.
 */
export async function collectImages(inputs: string[], outputFolder: string): Promise<InputImage[]> {
  const images: InputImage[] = [];
  for (const input of inputs) {
    // The name of an existing file may look like a pattern.
    const isPattern = !existsSync(input) && isDynamicPattern(input);
    if (!isPattern && !isFolder(input)) {
      images.push({ file: input, name: path.parse(input).name });
      continue;
    }
    const found = isPattern ? imagesLike(input) : await imagesUnder(input);
    if (found.length === 0) {
      throw new DataError(
        `No image ${isPattern ? 'matches' : 'in the folder'} ${input}; expected files that end in ${IMAGE_EXTENSIONS.join(', ')}`,
      );
    }
    const files = found.map(({ file }) => file);
    const results = new Set(filesIn(outputFolder, files));
    if (results.size === found.length) throw liesInOutput(input, outputFolder);
    for (const image of found) if (!results.has(image.file)) images.push(image);
  }
  refuseEqualNames(images);
  return images;
}

function isFolder(input: string): boolean {
  try {
    return statSync(input).isDirectory();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new DataError(`No such file or folder: ${input}`);
    throw new DataError(`Cannot read ${input}: ${code}`, { cause: error });
  }
}

async function imagesUnder(root: string): Promise<InputImage[]> {
  const files = await listFiles(root);
  return files.filter(isImage).map((file) => imageBelow(root, path.join(root, file)));
}

function imagesLike(pattern: string): InputImage[] {
  const parts = pattern.split('/');
  const root =
    parts
      .slice(
        0,
        parts.findIndex((part) => isDynamicPattern(part)),
      )
      .join('/') || (parts[0] === '' ? '/' : '.');
  const found = globSync(pattern, { expandDirectories: false }).filter(isImage);
  return onceEach(
    root,
    found.filter((file) => isSearched(path.relative(root, file))),
  )
    .sort(byCodeUnit)
    .map((file) => imageBelow(root, file))
    .map(refuseAbove);
}

/** Tells whether `listFiles` would list a file: every folder on the way is visible. */
function isSearched(file: string): boolean {
  return file.split(path.sep).every((name) => name === '..' || isVisible(name));
}

/** Keeps one path per file if links show it in several places: the real path below `root`, or the first. */
function onceEach(root: string, files: readonly string[]): string[] {
  const realRoot = realpathSync(root);
  const folders = new Map<string, string>();
  for (const folder of new Set(files.map((file) => path.dirname(file)).sort(byCodeUnit))) {
    const place = realpathSync(folder);
    const isReal = place === path.join(realRoot, path.relative(root, folder));
    if (isReal || !folders.has(place)) folders.set(place, folder);
  }
  const chosen = new Set(folders.values());
  return files.filter((file) => chosen.has(path.dirname(file)));
}

function isImage(file: string): boolean {
  return IMAGE_EXTENSIONS.includes(path.extname(file).toLowerCase());
}

/** Names an image by its path below `root`. */
function imageBelow(root: string, file: string): InputImage {
  const { dir, name } = path.parse(path.relative(root, file));
  return { file, name: path.posix.join(dir.split(path.sep).join('/'), name) };
}

/**
 * Refuses images above the pattern's folder. A pattern with `..` after its wildcards would put results outside the
 * output folder.
 */
function refuseAbove(image: InputImage): InputImage {
  if (image.name.split('/')[0] !== '..') return image;
  throw new DataError(`${image.file} is not below the pattern's folder; remove '..' from the pattern`);
}

function refuseEqualNames(images: InputImage[]): void {
  const seen = new Map<string, string>();
  for (const { file, name } of images) {
    const other = seen.get(name);
    if (other !== undefined) {
      throw new DataError(
        `${other} and ${file} would both be written as ${name}.png; give them other names or separate --output folders`,
      );
    }
    seen.set(name, file);
  }
}
