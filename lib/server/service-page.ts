import { html } from '../report/html.js';
import { makePage, type Page } from './page.js';

/** Makes the start page of the service: one drops or chooses a picture and sees its segmentation. */
export function servicePage({ needsToken }: { needsToken: boolean }): Page {
  const token = html`<p class="token"><label>Token <input id="token" type="password" autocomplete="off" size="40"></label></p>`;
  return makePage({
    title: 'bidiseg',
    style: STYLE,
    script: 'service',
    body: html`<header>
<p class="kind">bidiseg serve</p>
<h1>Segment a picture</h1>
${needsToken && token}
</header>
<main>
<label id="drop" class="drop" tabindex="0"><input id="file" type="file" accept="image/png,image/jpeg,image/webp,image/tiff"><b>Drop a picture here</b><span>or choose one. PNG, JPEG, WebP or TIFF.</span></label>
<p id="message" class="message" role="status"></p>
<section id="result" hidden>
<div id="stage" class="stage"><canvas id="picture"></canvas><canvas id="labels"></canvas><output id="pointer"></output></div>
<p class="controls"><label>Colors <input id="opacity" type="range" min="0" max="100" value="50"></label>
<a id="save" download="labels.png">Save the labels as PNG</a></p>
<h2>Classes</h2>
<p class="note">The share of the picture that each class covers. Point at a class to see it alone.</p>
<ul id="classes" class="shares"></ul>
</section>
<noscript>This page needs JavaScript.</noscript>
</main>`,
  });
}

const STYLE = `
.drop { display: grid; justify-items: center; gap: 4px; margin-top: 24px; padding: 40px 16px; border: 2px dashed var(--rule); border-radius: 12px; background: var(--raised); cursor: pointer; text-align: center; }
.drop span { color: var(--muted); font-size: 14px; }
.drop input { position: absolute; opacity: 0; pointer-events: none; }
.drop:focus-within, .drop.over { border-color: var(--accent); }
.drop.small { padding: 14px 16px; }
.message { min-height: 1.5em; margin: 12px 0; color: var(--muted); }
.message.failed { color: var(--down); }
.token { margin-top: 16px; }
#token { font: inherit; padding: 4px 8px; max-width: 100%; color: inherit; background: var(--raised); border: 1px solid var(--rule); border-radius: 6px; }
section { margin-top: 8px; }
h2 { margin-top: 24px; }
.stage { position: relative; margin: 0 auto; line-height: 0; }
.stage canvas { width: 100%; border-radius: 6px; }
#labels { position: absolute; inset: 0; height: 100%; image-rendering: pixelated; opacity: .5; }
#pointer { position: absolute; display: none; padding: 2px 10px; transform: translate(12px, 12px); border-radius: 99px; background: var(--ink); color: var(--page); font-size: 13px; line-height: 1.5; pointer-events: none; white-space: nowrap; z-index: 1; }
.controls { display: flex; flex-wrap: wrap; justify-content: center; gap: 8px 32px; margin-top: 12px; font-size: 14px; }
.controls input { vertical-align: middle; accent-color: var(--accent); }
.shares { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); gap: 2px 24px; font-size: 14px; }
.shares li { display: flex; align-items: center; gap: 8px; padding: 4px 6px; border-radius: 6px; }
.shares li:hover, .shares li:focus-visible { background: var(--raised); }
.shares span { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.shares .absent { color: var(--muted); opacity: .7; }
`;
