import { readFileSync } from 'node:fs';

/** bidiseg's version: that of package.json, three folders above this file once it is compiled. */
export function packageVersion(): string {
  const file = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
