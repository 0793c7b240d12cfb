import Glibc

/// The text of a small file of the kernel (/proc, /sys), or nil when it cannot be read.
///
/// Reads at most `limit` bytes: these files report no size.
func systemFileText(_ path: String, limit: Int = 1 << 16) -> String? {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
    while count < limit {
      let got = read(descriptor, buffer.baseAddress.map { $0 + count }, limit - count)
      if got < 0 && errno == EINTR { continue }
      if got <= 0 { break }
      count += got
    }
  }
  return String(decoding: bytes, as: UTF8.self)
}

/// The number after `key` in a text of "key: number unit" or "key number" lines.
func systemNumber(_ key: String, in text: String) -> Int? {
  for line in text.split(separator: "\n") {
    let words = line.split { $0 == " " || $0 == "\t" || $0 == ":" }
    if words.count >= 2, words[0] == key { return Int(words[1]) }
  }
  return nil
}
