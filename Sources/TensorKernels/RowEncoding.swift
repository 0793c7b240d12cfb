import CKernels

/// Encodes float32 rows for the activation cache and returns how many values did not fit.
///
/// A value does not fit when it is not finite, or when its magnitude is above 65504 for float16. Float16
/// rounds to nearest even; int8 stores round(x / scale) with scale = max|x| / 127 of the row.
package func encodeRows(_ x: Matrix, into y: EncodedRows, using set: KernelSet = .best) -> Int {
  precondition(
    x.rows == y.rows && x.columns == y.width, "encoding \(x.rows) x \(x.columns) as \(y.rows) x \(y.width)")
  var misfits = 0
  for row in 0..<x.rows {
    let source = x.base + row * x.stride
    let target = y.base + row * y.rowBytes
    switch y.element {
    case .float32:
      target.copyMemory(from: source, byteCount: x.columns * MemoryLayout<Float>.stride)
      var notFinite: UInt32 = 0
      for column in 0..<x.columns {
        notFinite &+= source[column].bitPattern & 0x7F80_0000 == 0x7F80_0000 ? 1 : 0
      }
      misfits += Int(notFinite)
    case .float16: misfits += set.kernels.pointee.encode_float16(source, x.columns, target)
    case .int8: misfits += set.kernels.pointee.encode_int8(source, x.columns, target)
    }
  }
  return misfits
}

/// Decodes rows to float32; exact for float16 and float32.
package func decodeRows(_ x: EncodedRows, into y: Matrix, using set: KernelSet = .best) {
  precondition(
    x.rows == y.rows && x.width == y.columns, "decoding \(x.rows) x \(x.width) into \(y.rows) x \(y.columns)")
  for row in 0..<x.rows {
    let source = x.base + row * x.rowBytes
    let target = y.base + row * y.stride
    switch x.element {
    case .float32:
      UnsafeMutableRawPointer(target).copyMemory(
        from: source, byteCount: x.width * MemoryLayout<Float>.stride)
    case .float16: set.kernels.pointee.decode_float16(source, x.width, target)
    case .int8: set.kernels.pointee.decode_int8(source, x.width, target)
    }
  }
}
