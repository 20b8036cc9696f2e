/** @type {import('next').NextConfig} */
export default {
  // bidiseg loads a native addon, so it must stay in node_modules instead of being bundled.
  serverExternalPackages: ['bidiseg'],
};
