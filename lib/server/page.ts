import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { FastifyReply } from 'fastify';
import { Html, html } from '../report/html.js';
import { STYLE } from '../report/style.js';

/** HTML page without external files, and the policy that allows only its own scripts. */
export interface Page {
  text: string;
  policy: string;
}

/**
 * Makes a page from a script in `browser/`. The page looks like the report.
 *
 * @param page.libraries scripts to load before
 */
export function makePage(page: {
  title: string;
  style: string;
  body: Html;
  script: string;
  libraries?: readonly string[];
}): Page {
  const own = readFileSync(new URL(`./browser/${page.script}.js`, import.meta.url), 'utf8');
  const scripts = [...(page.libraries ?? []), own];
  const text = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${page.title}</title>
<link rel="icon" href="data:,">
<style>${new Html(STYLE)}${new Html(page.style)}</style>
</head>
<body>
${page.body}
${(page.libraries ?? []).map((library) => html`<script>${new Html(library)}</script>`)}
<script type="module">${new Html(own)}</script>
</body>
</html>
`.text;
  const hashes = scripts.map((script) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`);
  // Charts bring style elements of their own.
  const policy = [
    "default-src 'none'",
    `script-src ${hashes.join(' ')}`,
    "style-src 'unsafe-inline'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  ].join('; ');
  return { text, policy };
}

export function sendPage(reply: FastifyReply, { text, policy }: Page): FastifyReply {
  return reply
    .headers({
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy,
      'cache-control': 'no-cache',
    })
    .send(text);
}

/** Returns the scripts of the library that draws the report's charts, for a browser. */
export function chartLibraries(): string[] {
  const { resolve } = createRequire(import.meta.url);
  const plot = resolve('@observablehq/plot');
  const d3 = createRequire(plot).resolve('d3');
  return [
    readFileSync(new URL('../dist/d3.min.js', `file://${d3}`), 'utf8'),
    readFileSync(new URL('../dist/plot.umd.min.js', `file://${plot}`), 'utf8'),
  ];
}
