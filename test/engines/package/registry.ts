import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import * as tar from 'tar';
import { ROOT } from '../../helpers/folder.js';

type Manifest = { name: string; version: string } & Record<string, unknown>;

/** A version of a package that the registry offers. Without `pack` it is only listed, as for another platform. */
interface Release {
  manifest: Manifest;
  pack?: () => Buffer;
}

/**
 * A package registry on the loopback, so that a project can install bidiseg as from a public one, without a network.
 * It offers the tarballs of a folder, and the packages in node_modules of this checkout, packed again when asked for.
 */
export class LocalRegistry {
  readonly #releases = new Map<string, Map<string, Release>>();
  readonly #tarballs = new Map<string, Buffer>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer(({ url = '/' }, response) => {
      this.#answer(decodeURIComponent(url.split('?')[0]!.slice(1)), response);
    });
  }

  /** Starts a registry that offers the tarballs in a folder. */
  static async start(tarballs: string): Promise<LocalRegistry> {
    const registry = new LocalRegistry();
    registry.#addInstalled();
    for (const name of readdirSync(tarballs)) registry.#addTarball(path.join(tarballs, name));
    await new Promise<void>((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    return registry;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #add(release: Release): void {
    const { name, version } = release.manifest;
    const versions = this.#releases.get(name) ?? new Map<string, Release>();
    this.#releases.set(name, versions.set(version, release));
  }

  #addTarball(file: string): void {
    let manifest: Manifest | undefined;
    tar.list({
      file,
      sync: true,
      filter: (name) => name === 'package/package.json',
      onReadEntry: (entry) => {
        const chunks: Buffer[] = [];
        entry.on('data', (chunk) => chunks.push(chunk));
        entry.on('end', () => {
          manifest = JSON.parse(Buffer.concat(chunks).toString());
        });
      },
    });
    if (!manifest) throw new Error(`${file} has no package.json`);
    this.#add({ manifest, pack: () => readFileSync(file) });
  }

  /** Adds what package-lock.json lists. Packages for other platforms are not in node_modules. */
  #addInstalled(): void {
    const lock = JSON.parse(readFileSync(path.join(ROOT, 'package-lock.json'), 'utf8'));
    for (const [place, entry] of Object.entries<Manifest & { dev?: boolean }>(lock.packages)) {
      if (place === '' || entry.dev) continue;
      const name = place.slice(place.lastIndexOf('node_modules/') + 'node_modules/'.length);
      const folder = path.join(ROOT, place);
      if (!existsSync(folder)) {
        this.#add({ manifest: { ...entry, name } });
        continue;
      }
      const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
      this.#add({ manifest, pack: () => packInstalled(folder) });
    }
  }

  #answer(target: string, response: ServerResponse): void {
    const [name, file] = target.split('/-/') as [string, string | undefined];
    const versions = this.#releases.get(name);
    const release = versions?.get(file?.replace(/\.tgz$/, '') ?? '');
    if (versions && !file) {
      const json = JSON.stringify(this.#document(name, versions));
      response.writeHead(200, { 'content-type': 'application/json' }).end(json);
    } else if (release?.pack) {
      response.end(this.#tarball(target, release.pack));
    } else {
      response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"not found"}');
    }
  }

  #document(name: string, versions: Map<string, Release>): object {
    const manifests = [...versions].map(([version, { manifest }]) => {
      const dist = { tarball: `${this.url}${name}/-/${version}.tgz` };
      return [version, { ...manifest, dist }] as const;
    });
    return {
      name,
      'dist-tags': { latest: manifests.at(-1)![0] },
      versions: Object.fromEntries(manifests),
    };
  }

  #tarball(target: string, pack: () => Buffer): Buffer {
    const bytes = this.#tarballs.get(target) ?? pack();
    this.#tarballs.set(target, bytes);
    return bytes;
  }
}

/** Packs an installed package. Packages inside it are packages of their own. */
function packInstalled(folder: string): Buffer {
  const packed = tar.create(
    {
      cwd: folder,
      prefix: 'package',
      portable: true,
      mtime: new Date(0),
      gzip: { level: 1 },
      sync: true,
      filter: (name) => !/^(\.\/)?node_modules(\/|$)/.test(name),
    },
    ['.'],
  );
  const bytes = packed.read();
  if (!bytes) throw new Error(`${folder} is empty`);
  return Buffer.from(bytes);
}
