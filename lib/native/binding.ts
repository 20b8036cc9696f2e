import { withOpenMpSettings } from '../support/threads.js';
import { loadAddon } from './addon.js';

const loaded = withOpenMpSettings(loadAddon);

/** The native addon. Importing this module loads it or throws BindingError. */
export const { native } = loaded;

/** Where the addon and its LibTorch come from. */
export const { addon } = loaded;

// process.exit() runs no environment cleanup hooks before static destructors. A thread that still computes would then
// crash the process, so the compute thread is stopped here. The addon itself covers every other way out.
process.on('exit', () => native.shutDown());
