import CryptoPrimitives
import Determinism
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels

/// A model's shape with few blocks and random weights, in memory: what measures a device without the model.
struct ProbeModel {
  /// Ids of the texts; of a word table only these rows are filled, unless a head reads all of it.
  private static let words = 4096

  let backbone: any Backbone

  /// Random weights for at most so many blocks.
  static func checkpoint(_ configuration: ModelConfiguration, head: TaskHead) throws -> Checkpoint {
    try Checkpoint(region: ProbeWeights(configuration, fillsWords: head == .languageModel))
  }

  /// The model of `configuration`; `checkpoint` may have more blocks.
  init(_ configuration: ModelConfiguration, _ checkpoint: Checkpoint) throws {
    backbone =
      switch configuration {
      case .bert(let bert): try BERTBackbone(checkpoint, bert)
      case .t5(let t5): try T5Backbone(checkpoint, t5)
      case .bart(let bart): try BARTBackbone(checkpoint, bart)
      }
  }

  /// Units of random texts, all equally long; the second half of each is a second text where a side network reads pairs.
  static func units(_ count: Int, _ shape: JobShape, _ architecture: BackboneArchitecture)
    -> [PackedMicroBatch]
  {
    var generator = SeededGenerator(seed: 0x7072_6f62)
    let most = architecture.maximumLength ?? .max
    let (source, target) = (min(shape.encoderLength, most), min(shape.decoderLength, most))
    let bound = min(Self.words, architecture.vocabulary)
    let hasPairs =
      if case .parallel(let side) = shape.technique { side.pooling?.readsPairs == true } else { false }
    let types = (0..<source).map { Int32(hasPairs && $0 >= (source + 1) / 2 ? 1 : 0) }
    func ids(_ count: Int) -> [Int32] { (0..<count).map { _ in Int32(generator.uniform(below: bound)) } }
    let samples = (0..<count * shape.samplesPerUnit).map { _ in
      let goal: TrainingTarget =
        switch shape.head {
        case .classes(let classes): .label(Int32(generator.uniform(below: max(1, classes))))
        case .value: .value(generator.uniformFloat())
        case .languageModel: .tokens(ids(target))
        }
      return TrainingSample(
        encoderIDs: ids(source), encoderTypes: types,
        decoderIDs: architecture.decoderStartID.map { [$0] + ids(target - 1) } ?? [], target: goal)
    }
    return (0..<count).map { unit in
      let first = unit * shape.samplesPerUnit
      return PackedMicroBatch(
        samples: Array(first..<first + shape.samplesPerUnit), of: samples, ordinal: unit)
    }
  }
}

/// A safetensors file of random values that was never on a disk.
///
/// - Safety: written once, in `init`, and only read afterwards.
private final class ProbeWeights: ByteRegion, @unchecked Sendable {
  let name = "random weights"
  private let storage: UnsafeMutableRawBufferPointer

  /// The tensors of `configuration`; without `fillsWords`, most rows of the word table take no memory.
  init(_ configuration: ModelConfiguration, fillsWords: Bool) throws {
    let layout = SafetensorsLayout(configuration.tensorShapes)
    storage = UnsafeMutableRawBufferPointer.allocate(byteCount: layout.byteCount, alignment: 4096)
    // One table of values, read from a place that changes: products take as long as with values that never repeat.
    var generator = SeededGenerator(seed: 1)
    let table = (0..<1 << 16).map { _ in generator.normalFloat() }
    let filledWords = 4096
    var end = 0
    var writes = true
    try streamSafetensors(layout) { tensor, range, values in
      let isTable = tensor.shape.first == configuration.vocabulary && tensor.shape.count == 2
      writes = fillsWords || !isTable || range.lowerBound < filledWords * (tensor.shape.last ?? 1)
      guard writes else { return }
      let start = RandomStart(tensor)
      for index in values.indices {
        values[index] =
          start.mean + start.deviation * table[(range.lowerBound &+ index &* 17) & (table.count - 1)]
      }
    } sink: { (piece: UnsafeRawBufferPointer) throws in
      if writes {
        UnsafeMutableRawBufferPointer(rebasing: storage[end..<end + piece.count]).copyMemory(from: piece)
      }
      end += piece.count
      writes = true
    }
  }

  deinit { storage.deallocate() }

  var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(storage) }
  func releaseResidentPages() {}
}
