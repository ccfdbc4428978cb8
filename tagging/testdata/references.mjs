// Writes references.json: where a browser, after the WHATWG URL Standard, gets
// from a page below /blog by the references to which tagged requests are
// redirected, and what path the server saw behind a proxy that removes /blog.
//
//     node references.mjs > references.json
const rows = [
  // path as typed behind /blog, query, reference
  ["/offer", "kme=C&kmi=j", "./offer"],
  ["/offer", "a=1&kmi=j&b=%2F", "?a=1&b=%2F"],
  ["/", "kmi=j", "?"],
  ["", "kmi=j", "?"],
  ["", "a&kmi=j", "?a"],
  ["/dir/", "kmi=j", "./"],
  ["/dir//", "kmi=j", "./"],
  ["//evil.example", "kmi=j", "./evil.example"],
  ["//evil.example/", "kmi=j", "./"],
  ["//evil.example/", "a&kmi=j", "?a"],
  ["/\\evil.example", "kmi=j", "./evil.example"],
  ["/%5Cevil.example", "kmi=j", "./%5Cevil.example"],
  ["/%2F%2Fevil.example", "kmi=j", "./%2F%2Fevil.example"],
  ["/https://evil.example", "kmi=j", "./evil.example"],
  ["/https:evil.example", "kmi=j", "./https:evil.example"],
  ["/javascript:alert(1)", "kmi=j", "./javascript:alert(1)"],
  ["/@evil.example", "kmi=j", "./@evil.example"],
  ["/a/../b", "kmi=j", "./b"],
  ["/a/%2e%2e", "kmi=j", "?"],
  ["/a/...", "kmi=j", "./..."],
  ["/a b/\u00e4;c=d", "kmi=j", "./%C3%A4;c=d"],
  ["/a%09b", "kmi=j", "./a%09b"],
  ["/50%25", "kmi=j", "./50%25"],
  ["/50%", "kmi=j", "./50%"],
  ["/a&b='(c)'*", "kmi=j", "./a&b='(c)'*"],
];
const table = rows.map(([path, query, reference]) => {
  const base = new URL("https://test.com/blog" + path + "?" + query);
  const seen = base.pathname.slice("/blog".length);
  return { path: seen, query, reference, base: base.href, leads: new URL(reference, base).href };
});
process.stdout.write("[\n" + table.map(row => JSON.stringify(row)).join(",\n") + "\n]\n");
