import CKernels

// Blocks of 64-bit integers in as few bits each as the block's largest needs (docs/FILE-FORMATS.md, "Packed sums").

/// Integers of a block.
package let packedBlockCount = Int(HEARTH_PACKED_BLOCK)

/// Most bits of an integer of a block.
package let packedWidthLimit: UInt8 = 64

/// Bytes of a block whose integers take `width` bits each.
package func packedBlockBytes(width: UInt8) -> Int { Int(width) * packedBlockCount / 8 }

/// The bits that the integers of each block need in two's complement; 0 where all of them are 0.
package func packedWidths(
  _ x: UnsafePointer<Int64>, blocks: Int, into widths: UnsafeMutablePointer<UInt8>,
  using set: KernelSet = .best
) {
  precondition(blocks >= 0, "\(blocks) blocks")
  set.kernels.pointee.packed_widths(x, blocks, widths)
}

/// Writes a block of integers of at most `width` bits to `packedBlockBytes(width:)` bytes.
package func packBlock(
  _ x: UnsafePointer<Int64>, width: UInt8, into y: UnsafeMutablePointer<UInt8>, using set: KernelSet = .best
) {
  precondition(width <= packedWidthLimit, "a block of \(width) bits an integer")
  if width > 0 { set.kernels.pointee.pack_block(x, UInt32(width), y) }
}

/// Reads a block that `packBlock` wrote with the same width, with any kernel set.
package func unpackBlock(
  _ x: UnsafePointer<UInt8>, width: UInt8, into y: UnsafeMutablePointer<Int64>, using set: KernelSet = .best
) {
  precondition(width <= packedWidthLimit, "a block of \(width) bits an integer")
  guard width > 0 else { return y.update(repeating: 0, count: packedBlockCount) }
  set.kernels.pointee.unpack_block(x, UInt32(width), y)
}
