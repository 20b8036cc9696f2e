import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from '../helpers/folder.js';

const read = (file: string) => readFileSync(path.join(ROOT, file), 'utf8');
const filesIn = (folder: string, ending: string) =>
  readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(ending) && !/node_modules|^api\//.test(name))
    .map((name) => path.posix.join(folder, name.split(path.sep).join('/')));

const FRONT = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md'];
const PROSE = [
  'README.md',
  'CONTRIBUTING.md',
  ...filesIn('docs', '.md').filter((name) => name !== 'docs/config.md'),
];

/** The sentences of a page: no code, tables, headings, links or inline code. */
function sentencesOf(markdown: string): string[] {
  const text = markdown
    .replaceAll(/```[\s\S]*?```/g, '\n\n')
    .replaceAll(/<!--[\s\S]*?-->/g, '')
    .replaceAll(/^( {4}|\t).*$/gm, '')
    .replaceAll(/^\s*(\||#).*$/gm, '\n')
    .replaceAll(/!\[[^\]]*\]\([^)]*\)/g, '')
    .replaceAll(/`[^`]*`/g, 'CODE')
    .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replaceAll(/https?:\/\/\S+/g, 'URL')
    .replaceAll(/^\s*([-*]|\d+\.) /gm, '\n\n');
  return text
    .split(/\n\s*\n/)
    .flatMap((paragraph) => paragraph.replaceAll(/\s+/g, ' ').split(/(?<=[.!?]["')*]*) /))
    .filter((sentence) => /\w/.test(sentence));
}

/** The doc comments of a TypeScript file, as text. */
function docstringsOf(source: string): string[] {
  return [...source.matchAll(/\/\*\*([\s\S]*?)\*\//g)].map(([, text]) =>
    text!.replaceAll(/^\s*\* ?/gm, '').trim(),
  );
}

describe('the documentation', () => {
  it('has a README of at most 150 lines and a CONTRIBUTING of at most 120', () => {
    assert.ok(read('README.md').split('\n').length <= 151);
    assert.ok(read('CONTRIBUTING.md').split('\n').length <= 121);
  });

  for (const file of PROSE) {
    it(`${file} has short sentences, with few semicolons and colons`, () => {
      const sentences = sentencesOf(read(file));
      const words = sentences.flatMap((sentence) => sentence.split(' ').filter((word) => /\w/.test(word)));
      const marks = sentences.join('').match(/[;:]/g)?.length ?? 0;
      const [length, rate] = [words.length / sentences.length, marks / sentences.length];
      assert.ok(length < 16, `${length.toFixed(1)} words a sentence, expected fewer than 16`);
      assert.ok(rate <= 0.3, `${rate.toFixed(2)} semicolons or colons a sentence, expected at most 0.3`);
    });
  }

  it('links to files and sections that are there', () => {
    const slug = (heading: string) =>
      heading
        .toLowerCase()
        .replaceAll(/`/g, '')
        .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-');
    const broken: string[] = [];
    for (const file of [...FRONT, ...filesIn('docs', '.md'), 'bench/README.md']) {
      const text = read(file).replaceAll(/```[\s\S]*?```/g, '');
      for (const [, link] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(link!)) continue;
        const [target, anchor] = link!.split('#') as [string, string | undefined];
        const place = target === '' ? file : path.posix.join(path.posix.dirname(file), target);
        if (!existsSync(path.join(ROOT, place))) broken.push(`${file}: ${link}`);
        else if (anchor && place.endsWith('.md')) {
          const headings = [...read(place).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => slug(heading!));
          if (!headings.includes(anchor)) broken.push(`${file}: ${link}`);
        }
      }
    }
    assert.deepEqual(broken, []);
  });

  it('is linked from code only where it is there', () => {
    const sources = [...filesIn('lib', '.ts'), ...filesIn('native', '.h'), ...filesIn('native', '.cc')];
    const broken = sources.flatMap((file) =>
      [...read(file).matchAll(/\b(docs\/[\w/-]+\.md)/g)]
        .filter(([, page]) => !existsSync(path.join(ROOT, page!)))
        .map(([, page]) => `${file}: ${page}`),
    );
    assert.deepEqual(broken, []);
  });

  it('has no docstring that begins with "Of"', () => {
    const bad = filesIn('lib', '.ts').flatMap((file) =>
      docstringsOf(read(file))
        .filter((text) => /^(Of|That of|Those of)\b/.test(text))
        .map((text) => `${file}: ${text.split('\n')[0]}`),
    );
    assert.deepEqual(bad, []);
  });
});
