import FoundationEssentials
import LanguageModels
import Testing

/// One text of a `target-ids.json` and what transformers' model made of it.
private struct TargetCase: Decodable {
  let text: String
  let labels: [Int32]
  let decoder: [Int32]
}

@Suite("A target text")
struct TargetEncodingTests {
  private func check(_ directory: String, _ tokenizer: some Tokenizer, decoderStartID: Int32) throws {
    let cases = try GoldenFixture(directory).region("target-ids.json").withBytes { bytes in
      try JSONDecoder().decode([TargetCase].self, from: Data(bytes))
    }
    #expect(cases.count > 50)
    for example in cases {
      let target = try tokenizer.encodeTarget(example.text, decoderStartID: decoderStartID, maxLength: 512)
      #expect(target.labels == example.labels, "\(example.text.debugDescription)")
      #expect(target.decoderIDs == example.decoder, "\(example.text.debugDescription)")
      #expect(target.truncatedTokens == 0)
    }
  }

  @Test("of T5 ends in </s> and is read behind the padding token, as in the reference")
  func t5() throws {
    try check("tiny-t5", try SentencePieceTokenizerTests.tokenizer(), decoderStartID: 0)
  }

  @Test("of BART is <s> text </s> and is read behind </s>, as in the reference")
  func bart() throws {
    try check("tiny-bart", try ByteLevelTokenizerTests.tokenizer(), decoderStartID: 2)
  }

  @Test("that is too long is cut before its end token")
  func truncation() throws {
    let tokenizer = try ByteLevelTokenizerTests.tokenizer()
    let whole = try tokenizer.encodeTarget("the house is wonderful", decoderStartID: 2, maxLength: 512)
    let cut = try tokenizer.encodeTarget("the house is wonderful", decoderStartID: 2, maxLength: 4)
    #expect(cut.labels == Array(whole.labels.prefix(3)) + [2])
    #expect(cut.decoderIDs == [2] + cut.labels.dropLast())
    #expect(cut.truncatedTokens == whole.labels.count - 4)
  }

  @Test("of a model of characters is written in the output's list")
  func characters() throws {
    let json = #"""
      {"model_type":"bart","d_model":8,"encoder_layers":1,"decoder_layers":1,"encoder_attention_heads":1,
      "decoder_attention_heads":1,"encoder_ffn_dim":8,"decoder_ffn_dim":8,"vocab_size":8,"bos_token_id":1,
      "eos_token_id":2,"pad_token_id":0,"decoder_start_token_id":1,"max_position_embeddings":16,
      "grapheme_chars":"____abc","phoneme_chars":"____xya"}
      """#
    let region = MemoryRegion(name: "config.json", bytes: Array(json.utf8))
    guard case .bart(let configuration) = try ModelConfiguration(region: region) else {
      Issue.record("not BART")
      return
    }
    let tokenizer = try #require(try CharacterTokenizer(configuration, file: "config.json"))
    #expect(try tokenizer.encode("abc", pair: nil, maxLength: 9).ids == [1, 4, 5, 6, 2])
    let target = try tokenizer.encodeTarget("axyb", decoderStartID: 1, maxLength: 9)
    #expect(target.labels == [1, 6, 4, 5, CharacterTokenizer.unknownID, 2])
    #expect(target.decoderIDs == [1, 1, 6, 4, 5, CharacterTokenizer.unknownID])
    #expect(tokenizer.decode(target.labels) == "axy")
    let cut = try tokenizer.encodeTarget("axyb", decoderStartID: 1, maxLength: 4)
    #expect(cut.labels == [1, 6, 4, 2])
    #expect(cut.truncatedTokens == 2)
  }
}
