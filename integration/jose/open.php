<?php
// Prints the identity that is sealed in a token, by OpenSSL.
$bytes = fn ($text) => base64_decode(strtr($text, '-_', '+/'));
[$header, $none, $nonce, $text, $tag] = explode('.', $argv[1]);
$claims = openssl_decrypt($bytes($text), 'aes-256-gcm', $bytes(getenv('IDENTITY_KEY')), OPENSSL_RAW_DATA, $bytes($nonce), $bytes($tag), $header);
if ($claims === false || $none !== '' || $bytes($header) !== '{"alg":"dir","enc":"A256GCM"}') {
    exit(1);
}
echo json_decode($claims, true)['sub'], "\n";
