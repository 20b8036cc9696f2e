import { existsSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import { globSync, isDynamicPattern } from 'tinyglobby';
import { IMAGE_EXTENSIONS } from '../data/image-bytes.js';
import { DataError } from '../support/errors.js';
import { byCodeUnit, isVisible, listFiles } from '../support/folders.js';

/** An image to read, and the name (without extension, '/' between folders) its results get. */
export interface InputImage {
  file: string;
  name: string;
}

/**
 * The images behind a list of files, folders and glob patterns, in a fixed order. Folders are searched to any depth, as
 * `listFiles` does. Folders, and patterns below their part without wildcards, keep their structure in the names; `outputFolder` is left out of the
 * search, so that a second run does not eat its own results. Nothing is read but the folders.
 */
export async function collectImages(inputs: string[], outputFolder: string): Promise<InputImage[]> {
  const images: InputImage[] = [];
  const leaveOut = path.resolve(outputFolder);
  for (const input of inputs) {
    // A file may have a name that looks like a pattern.
    const isPattern = !existsSync(input) && isDynamicPattern(input);
    if (!isPattern && !isFolder(input)) {
      images.push({ file: input, name: path.parse(input).name });
      continue;
    }
    const found = isPattern ? imagesLike(input, leaveOut) : await imagesUnder(input, leaveOut);
    if (found.length === 0) {
      throw new DataError(
        `No image ${isPattern ? 'matches' : 'in the folder'} ${input}; expected files that end in ${IMAGE_EXTENSIONS.join(', ')}`,
      );
    }
    for (const image of found) images.push(image);
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

async function imagesUnder(root: string, leaveOut: string): Promise<InputImage[]> {
  const files = await listFiles(root, { leaveOut });
  return files.filter(isImage).map((file) => imageBelow(root, path.join(root, file)));
}

function imagesLike(pattern: string, leaveOut: string): InputImage[] {
  const parts = pattern.split('/');
  const root =
    parts
      .slice(
        0,
        parts.findIndex((part) => isDynamicPattern(part)),
      )
      .join('/') || (parts[0] === '' ? '/' : '.');
  const found = globSync(pattern, { expandDirectories: false }).filter(
    (file) => isImage(file) && !path.resolve(file).startsWith(leaveOut + path.sep),
  );
  return onceEach(
    root,
    found.filter((file) => isSearched(path.relative(root, file))),
  )
    .sort(byCodeUnit)
    .map((file) => imageBelow(root, file))
    .map(refuseAbove);
}

/** As `listFiles` has it, for each folder on the way. */
function isSearched(file: string): boolean {
  return file.split(path.sep).every((name) => name === '..' || isVisible(name));
}

/** The files, each once: where links show one in several places, the path below `root` that is real, or the first. */
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

/** Named by its place below `root`. */
function imageBelow(root: string, file: string): InputImage {
  const { dir, name } = path.parse(path.relative(root, file));
  return { file, name: path.posix.join(dir.split(path.sep).join('/'), name) };
}

/** A pattern may have `..` behind its wildcards; results under such names would lie outside the output folder. */
function refuseAbove(image: InputImage): InputImage {
  if (image.name.split('/')[0] !== '..') return image;
  throw new DataError(`${image.file} does not lie below the pattern's folder; leave '..' out of the pattern`);
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
