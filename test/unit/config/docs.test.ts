import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { ROOT } from '../../helpers/folder.js';

interface JsonSchema {
  description?: string;
  properties?: Record<string, JsonSchema>;
  enum?: unknown[];
  maximum?: number;
}
interface Generator {
  configDocs(): Record<string, string>;
  configJsonSchema(): JsonSchema;
}

describe('the generated reference of configs', () => {
  let generator: Generator;

  before(async () => {
    const file = pathToFileURL(path.join(ROOT, 'scripts/config-docs.mjs')).href;
    generator = (await import(file)) as Generator;
  });

  it('is committed as it is generated now', () => {
    for (const [file, text] of Object.entries(generator.configDocs())) {
      const committed = readFileSync(path.join(ROOT, file), 'utf8');
      assert.ok(committed === text, `${file} is stale; run npm run docs:config`);
    }
  });

  it('takes descriptions and ranges from the owners of the options', () => {
    const { properties } = generator.configJsonSchema();
    const teacher = JSON.stringify(properties!.segmentation!.properties!.teacher);
    assert.match(teacher, /"description":"Decay of the average\./);
    assert.deepEqual(properties!.segmenter!.properties!.network!.enum, ['deeplab-v2', 'fcn-8s']);
    assert.equal(properties!.segmenter!.properties!.width!.maximum, 2);
    assert.match(
      properties!.data!.properties!.source!.properties!.labelMap!.description!,
      /^Converts the ids/,
    );
  });

  it('begins no description with "Of"', () => {
    const visit = (node: JsonSchema, place: string): void => {
      assert.doesNotMatch(node.description ?? '', /^Of\b/, place);
      for (const [key, inner] of Object.entries(node.properties ?? {})) visit(inner, `${place}.${key}`);
    };
    visit(generator.configJsonSchema(), 'config');
  });
});
