import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import bindings from 'bindings';
import { BindingError } from '../support/errors.js';
import { packageRoot } from '../support/package.js';
import { prepareLibTorchThreads } from '../support/threads.js';
import type { NativeBinding } from './binding-types.js';

prepareLibTorchThreads();

function load(): NativeBinding {
  try {
    // Loads another build of the addon, such as the one with sanitizers (scripts/check-addon-sanitized.sh).
    const { BIDISEG_ADDON } = process.env;
    if (BIDISEG_ADDON) return createRequire(import.meta.url)(resolve(BIDISEG_ADDON)) as NativeBinding;
    return bindings({ bindings: 'bidiseg', module_root: packageRoot() }) as NativeBinding;
  } catch (cause) {
    const error = cause as Error & { tries?: string[] };
    const attempts = error.tries
      ? `It was looked for at:\n${error.tries.map((file) => `  ${file}`).join('\n')}`
      : `Loading it failed: ${error.message}`;
    throw new BindingError(
      `The native addon of bidiseg cannot be loaded. ${attempts}\nBuild it with \`npm run setup\` in ${packageRoot()}.`,
      { cause },
    );
  }
}

/** The native addon. Importing this module loads it or throws BindingError. */
export const native = load();

// process.exit() runs no environment cleanup hooks before static destructors. A thread that still computes would then
// crash the process, so the compute thread is stopped here. The addon itself covers every other way out.
process.on('exit', () => native.shutDown());
