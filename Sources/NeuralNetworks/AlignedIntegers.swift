/// Calls `body` with integers that came as bytes: in place where they are aligned, else as a copy.
func withAligned<Integer: FixedWidthInteger & BitwiseCopyable>(
  _ bytes: UnsafeRawBufferPointer, as type: Integer.Type, _ body: (UnsafePointer<Integer>) -> Void
) {
  guard let base = bytes.baseAddress else { return }
  let count = bytes.count / MemoryLayout<Integer>.stride
  if Int(bitPattern: base) % MemoryLayout<Integer>.alignment == 0 {
    body(base.assumingMemoryBound(to: Integer.self))
  } else {
    let copy = (0..<count).map {
      bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Integer>.stride, as: Integer.self)
    }
    copy.withUnsafeBufferPointer { if let start = $0.baseAddress { body(start) } }
  }
}
