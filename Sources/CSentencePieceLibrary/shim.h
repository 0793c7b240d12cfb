// The C++ headers of libsentencepiece are included by CSentencePiece only; this target links the library.
