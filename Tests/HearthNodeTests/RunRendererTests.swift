import HearthNode
import TensorKernels
import Testing

@Suite struct RunRendererTests {
  private func progress(_ step: Int, of steps: Int = 100) -> RunEvent {
    .progress(
      RunProgress(
        phase: .liveEpoch, epoch: 1, step: step, steps: steps, samplesPerSecond: 512.25, loss: 0.69314,
        etaSeconds: 75))
  }

  @Test func aLogGetsAProgressLineEveryFewSecondsOnly() {
    var renderer = RunRenderer(style: ConsoleStyle(columns: nil, colored: false))
    #expect(renderer.text(for: .phase(.liveEpoch), at: 100) == "")
    #expect(renderer.text(for: progress(1), at: 101) == "")
    let line = renderer.text(for: progress(50), at: 105)
    #expect(line == "epoch 1/0 live 50/100 steps, 512.3 samples/s, ETA 1:15, loss 0.6931\n")
    #expect(renderer.text(for: progress(51), at: 109.9) == "")
    #expect(renderer.text(for: progress(52), at: 110) != "")
  }

  @Test func aTerminalRedrawsAtMostTenTimesASecondAndShowsTheLastStep() {
    var renderer = RunRenderer(style: ConsoleStyle(columns: 80, colored: false))
    _ = renderer.text(for: .phase(.liveEpoch), at: 0)
    var drawings = 0
    for millisecond in 0..<1_000 {
      if renderer.text(for: progress(1 + millisecond / 20), at: Double(millisecond) / 1_000) != "" {
        drawings += 1
      }
    }
    #expect(drawings <= 10 && drawings >= 9)
    #expect(renderer.text(for: progress(100), at: 1.0) != "")
  }

  @Test func aBarIsAsWideAsTheTerminalAllowsAndNeverWraps() {
    for columns in 20...200 {
      var renderer = RunRenderer(style: ConsoleStyle(columns: columns, colored: false))
      let text = renderer.text(for: progress(37), at: 1)
      #expect(text.hasPrefix("\r") && text.hasSuffix("\u{1B}[K"))
      let visible = text.dropFirst().dropLast(3)
      #expect(visible.count < columns, "\(columns) columns: \(visible)")
      #expect(visible.contains("37%"))
    }
  }

  @Test func aFullLineShowsRateLossAndTimeLeft() {
    var renderer = RunRenderer(style: ConsoleStyle(columns: 120, colored: false))
    let text = renderer.text(for: progress(50), at: 1)
    #expect(text.contains("[####################....................] 50%"))
    #expect(text.contains("512.3 samples/s") && text.contains("loss 0.6931") && text.contains("ETA 1:15"))
  }

  @Test func aLineOfTextReplacesTheBar() {
    var renderer = RunRenderer(style: ConsoleStyle(columns: 80, colored: false))
    _ = renderer.text(for: progress(50), at: 1)
    let epoch = RunEvent.epoch(
      index: 1, EpochSummary(mode: .live, seconds: 12.34, samplesPerSecond: 100, loss: 0.5))
    #expect(
      renderer.text(for: epoch, at: 2)
        == "\r\u{1B}[Kepoch 1/0 live: 12.3 s, 100.0 samples/s, loss 0.5000\n")
    #expect(renderer.clearedBar() == "")
  }

  @Test func aFillTellsSamplesAndLayer() {
    var renderer = RunRenderer(style: ConsoleStyle(columns: nil, colored: false))
    #expect(renderer.text(for: .phase(.fill), at: 0) == "")
    let progress = RunProgress(
      phase: .fill, epoch: 0, step: 12, steps: 48, samplesPerSecond: 1.5, etaSeconds: 24, layer: 7, layers: 48
    )
    #expect(
      renderer.text(for: .progress(progress), at: 6)
        == "fill 12/48 samples, 1.5 samples/s, ETA 24.0 s, layer 7/48\n")
    #expect(
      renderer.text(for: .filled(FillSummary(samples: 48, seconds: 32)), at: 33)
        == "fill: 48 samples in 32.0 s, 1.5 samples/s\n")
  }

  @Test func aStreamedPlanSaysWhatIsInMemoryAtATime() {
    var plan = RunPlan(
      model: "t5", device: "cpu", kernels: "avx2", blasCore: "Haswell", threads: 2, samples: 48,
      validationSamples: 0, skippedRows: 0, truncatedTexts: 0, labels: ["no", "yes"], lanes: 8,
      stepsPerEpoch: 3,
      epochs: 2, trainableParameters: 10, backboneParameters: 20, memoryBytes: 3 << 20,
      backboneBytes: 3 << 30,
      cacheElement: .float16, cacheBytes: 300 << 20, firstStep: 0)
    plan.streaming = StreamingPlan(
      windowBytes: 128 << 20, chunkTokens: 6144, fillBytes: 200 << 20, trainingBytes: 400 << 20)
    var renderer = RunRenderer(style: ConsoleStyle(columns: nil, colored: false))
    let text = renderer.text(for: .started(plan), at: 0)
    for part in [
      "3.0 GiB", "128.0 MiB", "6,144 tokens", "200.0 MiB to fill", "400.0 MiB to train", "300.0 MiB",
    ] {
      #expect(text.contains(part), "\(part) in \(text)")
    }
  }

  @Test func coloursAppearOnlyWhenAllowed() {
    var plain = RunRenderer(style: ConsoleStyle(columns: 80, colored: false))
    var colored = RunRenderer(style: ConsoleStyle(columns: 80, colored: true))
    #expect(plain.text(for: .warning("hot"), at: 0) == "warning: hot\n")
    #expect(colored.text(for: .warning("hot"), at: 0) == "\u{1B}[33mwarning: \u{1B}[0mhot\n")
  }

  @Test func aStreamThatIsNoTerminalHasNoStyle() {
    #expect(ConsoleStyle.of(descriptor: -1, environment: ["TERM": "xterm"]).columns == nil)
    #expect(ConsoleStyle.of(descriptor: 0, environment: ["TERM": "dumb"]).columns == nil)
  }
}

@Suite struct ProgressThinnerTests {
  @Test func progressPassesTenTimesASecondAndAtBothEndsOfAPhase() {
    var thinner = ProgressThinner()
    var passed: [Int] = []
    for phase in [RunPhase.liveEpoch, .cachedEpoch] {
      let start = phase == .liveEpoch ? 0 : 50.0 / 64
      let isPhasePassed = thinner.passes(.phase(phase), at: start)
      #expect(isPhasePassed)
      for step in 1...50 {
        let progress = RunProgress(phase: phase, epoch: 1, step: step, steps: 50, samplesPerSecond: 1)
        if thinner.passes(.progress(progress), at: start + Double(step) / 64) { passed.append(step) }
      }
    }
    #expect(passed == [1, 8, 15, 22, 29, 36, 43, 50, 1, 8, 15, 22, 29, 36, 43, 50])
    let others = [RunEvent.warning("w"), .checkpoint(step: 1)].map { thinner.passes($0, at: 0) }
    #expect(others == [true, true])
  }
}

@Suite struct NumberTextTests {
  @Test(arguments: [
    (0.0, 2, "0.00"), (0.695, 1, "0.7"), (1.005, 0, "1"), (-0.001, 2, "0.00"), (-1.5, 1, "-1.5"),
    (999.96, 1, "1000.0"), (.nan, 3, "nan"), (-.infinity, 3, "-inf"), (12.0625, 4, "12.0625"),
  ])
  func decimalsAreRounded(value: Double, places: Int, text: String) {
    #expect(decimal(value, places) == text)
  }

  @Test(arguments: [
    (0.5, "0.50 s"), (12.34, "12.3 s"), (59.96, "1:00"), (75, "1:15"), (3_723, "1:02:03"),
    (-1, "?"), (.nan, "?"),
  ])
  func durationsAreWrittenForPeople(seconds: Double, text: String) {
    #expect(duration(seconds) == text)
  }

  @Test(arguments: [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")])
  func integersAreGrouped(value: Int, text: String) {
    #expect(grouped(value) == text)
  }

  @Test func tablesAlign() {
    #expect(tableLines([["a", "b"], ["long", "c"]]) == ["a     b", "long  c"])
  }
}

@Suite struct ByteCountTests {
  @Test(arguments: [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"),
    ((1 << 20) - 1, "1.0 MiB"), (5 << 30, "5.0 GiB"), (3 << 50, "3.0 PiB"), (-2048, "-2.0 KiB"),
  ])
  func bytesAreWrittenWithABinaryUnit(bytes: Int, text: String) {
    #expect(ByteCount(bytes).description == text)
  }

  @Test(arguments: [
    ("4096", 4096), ("2GiB", 2 << 30), ("2 GB", 2 << 30), ("1.5g", 3 << 29), ("512MiB", 512 << 20),
    ("7k", 7 << 10), ("0", 0), ("1t", 1 << 40), ("12b", 12),
  ])
  func sizesAreReadWithAnyCommonSuffix(text: String, bytes: Int) {
    #expect(ByteCount(parsing: text)?.bytes == bytes)
  }

  @Test(arguments: ["", "x", "-1", "1e3", "GiB", "1.2.3", "5 parsecs", "9999999999999t", "nan", "inf", "1gg"])
  func anythingElseIsNoSize(text: String) {
    #expect(ByteCount(parsing: text) == nil)
  }
}

@Suite struct TapSelectionTests {
  @Test(arguments: [("0", [0]), ("0,2,5-7", [0, 2, 5, 6, 7]), ("7,1", [1, 7]), ("3-3", [3])])
  func layersAndRangesAreRead(text: String, layers: [Int]) {
    #expect(TapSelection.parse(text) == layers)
  }

  @Test(arguments: [
    "", ",", "1,", "1,1", "0-3,2", "5-2", "-1", "1-2-3", "a", "1000", " 1", "99999999999999999999",
  ])
  func anythingElseIsRefused(text: String) {
    #expect(TapSelection.parse(text) == nil)
  }
}
