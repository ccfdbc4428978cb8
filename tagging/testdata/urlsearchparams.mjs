// Writes urlsearchparams.json: what URLSearchParams, the reference for how tags are decoded, makes of these queries.
//
//     node urlsearchparams.mjs > urlsearchparams.json
const queries = [
  "kme=Clicked+Link&kmi=john.smith&km_Link+Location=top",
  "kme=Clicked%20Link&kmi=john.smith%40example.com&km_Link%20Location=top",
  "", "&", "&&&", "=", "==", "&=&", "=kme", "a", "a&b", "a=&b=", "kme", "kme=", "kme&kmi", "kme==", "kme=a=b=c",
  "%6bme=a", "%6B%6D%65=a", "k%6De=a", "km%65=a", "km%5f%65=a", "km%5F%65=a", "%6b%6d%5f%69=a", "km%69=a", "km_%5Fk=a", "km%5F_p=a",
  "kme%3Da=b", "kme%26=b", "kme%00=b", "kme%20=b", "kme+=b", "+kme=b", "%20kme=b", "kme\t=b", "KME=a", "Kme=a", "kmE=a", "kmI=a", "KM_a=b",
  "km=1&akme=2&kmx=3&kMe=4&kmee=5&kmi_=6&kmname=7&km-a=8&km+a=9&km%a=10", "km_=1", "km_+=1", "km__=1", "km_e=1", "km_i=1", "km_ee=1", "km_ie=1", "km_e_=1",
  "a;kme=b", "kme=a;kmi=b", "kme=a%3Bkmi=b", "kme=a&amp;kmi=b", "a=b?kme=c", "a=b#kme=c",
  "kme=%", "kme=%%", "kme=%4", "kme=%zz", "kme=%4z", "kme=%z4", "kme=100%", "kme=100%25", "kme=%%41", "kme=%4%41", "kme=a%&kmi=b", "%=a", "%6=a", "km%=a", "km%6=a", "km%6&e=a", "kme=%2541",
  "kme=%2B+%2b", "kme=a+b%20c", "km_a+b=c+d", "kme=%0A%0D%09", "kme=%00", "kme=%7F",
  "kme=\u00e4\u20ac\u{1F600}", "kme=%C3%A4%E2%82%AC%F0%9F%98%80", "km_\u00e4=1", "kme=%EF%BB%BFa", "%EF%BB%BFkme=a", "\uFEFFkme=a", "kme=\uFEFF",
  // (Behind an incomplete one, Node.js decodes an unencoded character wrongly, so there is none here.)
  // Invalid UTF-8: lone and missing continuation bytes, overlong forms, surrogates, beyond U+10FFFF.
  "kme=%80", "kme=%BF%BF", "kme=%C3", "kme=%C3a", "kme=%C3%C3%A4", "kme=%E2%82", "kme=%E2%82a", "kme=%E2%28%A1", "kme=%E2%82%28", "kme=%F0%9F%98", "kme=%F0%9F%98a", "kme=%F0%9F", "kme=%F0%28%8C%BC", "kme=%F0%9F%28",
  "kme=%C0%AF", "kme=%C1%BF", "kme=%E0%80%AF", "kme=%E0%9F%BF", "kme=%E0%A0", "kme=%F0%80%80%AF", "kme=%F0%8F%BF%BF", "kme=%F0%90%80", "kme=%ED%A0%80", "kme=%ED%9F%BF", "kme=%ED%9F", "kme=%F4%90%80%80", "kme=%F4%8F%BF%BF", "kme=%F4%8F", "kme=%F5%80%80%80", "kme=%F8%88%80%80%80", "kme=%FE%FF", "kme=%FF",
  "kme=%41%C3%A4%FF%42", "km_%FF=a", "kme%FF=a", "%FFkme=a", "kme=%E1%80%E2%F0%91%92%F1%BF%41", "kme=\uFFFD", "kme=%EF%BF%BD", "kme=%C3+%A4", "kme=%C3%+%A4",
  "kmi=a&kmi=b", "kmi=a&km_i=b", "km_i=a&kmi=b", "kmi=john&kmi=null", "km_a=1&km_b=2&km_a=3", "kmi=bob+x@y.com", "kmi=bob%2Bx@y.com",
];
const table = queries.map(query => ({ query, pairs: [...new URLSearchParams(query)] }));
// As ASCII, so that no tool normalizes what is in it.
const json = "[\n" + table.map(row => JSON.stringify(row)).join(",\n") + "\n]\n";
process.stdout.write(json.replace(/[\u007f-\uffff]/g, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
