import Determinism
import TensorKernels
import Testing

@Suite("Machine")
struct MachineTests {
  @Test("The BLAS core fits the CPU after the choice, and products are right afterwards")
  func coreFitsTheCPU() {
    let report = BLASCore.select()
    // A user who forces a core is told, not overruled.
    #expect(!report.contradictsCPU || report.explanation.contains("OPENBLAS_CORETYPE"), "\(report)")
    #expect(report == BLASCore.select())
    let seed: UInt64 = 88
    var random = SeededGenerator(seed: seed)
    for _ in 0..<6 {
      let (m, n, k) = (
        256 + random.uniform(below: 60), 256 + random.uniform(below: 60), 256 + random.uniform(below: 90)
      )
      let a = MatrixFixture(rows: k, columns: m, stride: m + random.uniform(below: 4), random: &random)
      let b = MatrixFixture(rows: k, columns: n, stride: n + random.uniform(below: 4), random: &random)
      let c = MatrixFixture(rows: m, columns: n, stride: n + random.uniform(below: 4))
      matrixMultiplyByBLAS(a.matrix, .transposed, b.matrix, .none, into: c.matrix)
      let expected = Reference.product(a.matrix, .transposed, b.matrix, .none)
      #expect(largestError(c.values, expected) < 1e-4, "\(m) x \(n) x \(k), seed \(seed)")
    }
  }

  @Test("The preferred core is the widest that the CPU computes with, and old cores contradict a new CPU")
  func preferredCores() {
    func cpu(avx2: Bool, avx512: Bool, amd: Bool) -> CPUFeatures {
      CPUFeatures(
        brand: "test", architecture: "x86_64", avx2: avx2, fma: avx2, avx512: avx512, vnni: false,
        neon: false,
        isAMDBeforeZen5: amd, kernelSet: "portable")
    }
    let wide = cpu(avx2: true, avx512: true, amd: false)
    let zen4 = cpu(avx2: true, avx512: true, amd: true)
    let medium = cpu(avx2: true, avx512: false, amd: false)
    let old = cpu(avx2: false, avx512: false, amd: false)
    #expect(BLASCore.preferredCore(wide) == "SkylakeX")
    #expect(BLASCore.preferredCore(zen4) == "Zen")
    #expect(BLASCore.preferredCore(medium) == "Haswell")
    #expect(BLASCore.preferredCore(old) == nil)
    for features in [wide, zen4, medium] {
      #expect(!BLASCore.isSuitable(core: "Prescott", for: features))
      #expect(BLASCore.isSuitable(core: BLASCore.preferredCore(features) ?? "", for: features))
    }
    #expect(!BLASCore.isSuitable(core: "Cooperlake", for: zen4))
    #expect(!BLASCore.isSuitable(core: "Haswell", for: wide))
    #expect(BLASCore.isSuitable(core: "Prescott", for: old))
  }

  @Test("The kernel set in use is the best that the CPU runs, and the portable set is always there")
  func kernelSets() {
    let cpu = CPUFeatures.detect()
    #expect(cpu.kernelSet == KernelSet.available[0].name)
    #expect(KernelSet.available.contains { $0.index == 0 })
    if cpu.avx2 && cpu.fma { #expect(cpu.kernelSet.hasPrefix("avx")) }
    #expect(!cpu.brand.isEmpty)
  }

  @Test("CRC-32C of \"123456789\" is E3069283, as RFC 3720's polynomial demands, by instruction and by table")
  func publishedChecksum() {
    let bytes = Array("123456789".utf8)
    #expect(bytes.withUnsafeBytes { crc32c($0) } == 0xE306_9283)
    #expect(bytes.withUnsafeBytes { crc32cByTable($0) } == 0xE306_9283)
    // RFC 3720 appendix B.4: 32 bytes of zeros.
    #expect([UInt8](repeating: 0, count: 32).withUnsafeBytes { crc32c($0) } == 0x8A91_36AA)
  }

  @Test("A checksum continued over any cut equals the checksum of the whole")
  func checksumContinues() {
    let seed: UInt64 = 17
    var random = SeededGenerator(seed: seed)
    let bytes = (0..<301).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    let whole = Reference.crc32c(bytes)
    for cut in [0, 1, 7, 8, 150, 301] {
      let head = bytes[0..<cut].withUnsafeBytes { crc32c($0) }
      #expect(bytes[cut...].withUnsafeBytes { crc32c($0, seed: head) } == whole, "cut \(cut), seed \(seed)")
      let table = bytes[0..<cut].withUnsafeBytes { crc32cByTable($0) }
      #expect(
        bytes[cut...].withUnsafeBytes { crc32cByTable($0, seed: table) } == whole, "cut \(cut), seed \(seed)")
    }
  }

  @Test("An arena is zeroed and aligned to 64 bytes, and so is every buffer that its layout reserves")
  func arenaAlignment() {
    var layout = ArenaLayout()
    let first = layout.reserve(3)
    let mark = layout.mark()
    let second = layout.reserve(100)
    layout.rewind(to: mark)
    let third = layout.reserve(17)
    #expect(first == 0 && second == 16 && third == second)
    #expect(layout.floatCount == 16 + 112)
    let arena = Arena(floatCount: layout.floatCount)
    #expect(UInt(bitPattern: arena.base) % 64 == 0)
    #expect((0..<arena.floatCount).allSatisfy { arena.base[$0] == 0 })
    arena.base[arena.floatCount - 1] = 1
  }
}
