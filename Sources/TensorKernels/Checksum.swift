import CKernels

/// CRC-32C (Castagnoli polynomial, RFC 3720 §12.1); `seed` is the checksum of the bytes before these.
package func crc32c(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
  guard let base = bytes.baseAddress else { return seed }
  return hearth_crc32c(base, bytes.count, seed)
}

/// The same by table, as CPUs without the instruction compute it.
package func crc32cByTable(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
  guard let base = bytes.baseAddress else { return seed }
  return hearth_crc32c_table(base, bytes.count, seed)
}
