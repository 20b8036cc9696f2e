import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { IMAGE_EXTENSIONS } from '../data/image-files.js';
import { DataError } from '../errors.js';

/** An image to read, and the name (without extension, '/' between folders) its results get. */
export interface InputImage {
  file: string;
  name: string;
}

/**
 * The images behind a list of files and folders, in a fixed order. Folders are searched to any depth and keep their
 * structure in the names; `outputFolder` is left out of the search, so that a second run does not eat its own results.
 */
export function collectImages(inputs: string[], outputFolder: string): InputImage[] {
  const images: InputImage[] = [];
  for (const input of inputs) {
    if (isFolder(input)) {
      const found = imagesUnder(input, path.resolve(outputFolder));
      if (found.length === 0) {
        throw new DataError(
          `No image in the folder ${input}; expected files that end in ${IMAGE_EXTENSIONS.join(', ')}`,
        );
      }
      images.push(...found);
    } else {
      images.push({ file: input, name: path.parse(input).name });
    }
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

function imagesUnder(root: string, leaveOut: string): InputImage[] {
  const images: InputImage[] = [];
  const visit = (folder: string) => {
    const entries = readdirSync(folder, { withFileTypes: true });
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      const file = path.join(folder, entry.name);
      if (path.resolve(file) === leaveOut || entry.name.startsWith('.')) continue;
      if (entry.isDirectory()) visit(file);
      else if (IMAGE_EXTENSIONS.includes(path.extname(entry.name).toLowerCase())) {
        const { dir, name } = path.parse(path.relative(root, file));
        images.push({ file, name: path.posix.join(dir.split(path.sep).join('/'), name) });
      }
    }
  };
  visit(root);
  return images;
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
