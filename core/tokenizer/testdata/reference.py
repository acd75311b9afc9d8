"""Writes reference.json: what the tokenizers library makes of odd texts with odd variants of the golden tokenizers.

Run by hand, from this folder, with tokenizers 0.23.3; the test only reads the result."""
import copy, glob, json, random
from tokenizers import Tokenizer
random.seed(7)
pool=["a","b","Z","S","ſ","K","'","'s","'S","'ſ","'ll","'LL","'Re"," ","  ","   ","\n","\r\n","\t","\x0b","\x0c","\x85","\xa0","\u3000","\u2028","\u200b","\u200d","1","23","456","7890","½","Ⅻ","²","٣","é","e\u0301","ñ","ß","ﬁ","Å","Å","한","각","ㄱ","你好","東京","日本語","ひらがな","カタカナ","𠮷","👩‍💻","🇩🇪","👍🏽","ا","ال","عَرَبِيّ","שָׁלוֹם","हिन्दी","ไทย้","ǅ","ʰ","ª","ℵ","_","‿","-","--","—","!","?!","/","//","\\","{","}","[","]","<",">","|","<|","|>","<s>","</s>","<unk>","<pad>","<|endoftext|>","<|im_start|>","<|im_end|>","<tool_call>","<think>","<|begin_of_text|>","<|eot_id|>","<｜User｜>","<｜begin▁of▁sentence｜>","▁","▁▁","[INST]","[/INST]","the","hello","World","HTTPServer","camelCase","snake_case","ABCdef","0x1F","3.14","e"+"\u0300"*40,"\u0315\u0300\u05ae\u0301","\u0301","\u0b47\u0b3e","\u1100\u1161\u11a8","<fim_prefix>","|||IP_ADDRESS|||","\ufffd","\u0000","\x7f","<0x41>","ĠĊ","Ⓐ","ⓐ","\u0345","\u2160","\u1d7ce","Ǆ","İ","ı","Σ","ς","ΑΣ","\ufb01\u0301"]
def text():
    return ''.join(random.choice(pool) for _ in range(random.randint(1,14)))
out=[]
errs=[]
paths=sorted(glob.glob('../../coretest/testdata/golden/tokenizers/*/tokenizer.json'))
def run(name,tj,n=3):
    try: tk=Tokenizer.from_str(json.dumps(tj))
    except Exception as e:
        print('bad',name,e); return
    cases=[]
    size=tk.get_vocab_size()
    for _ in range(n):
      try:
        s=text()
        ids=tk.encode(s,add_special_tokens=False).ids
        ids2=tk.encode(s,add_special_tokens=True).ids
        rid=[random.randrange(0,size+3) for _ in range(random.randint(0,20))]
        cases.append(dict(text=s,ids=ids,ids2=ids2,dec=tk.decode(ids,skip_special_tokens=False),dec2=tk.decode(ids2,skip_special_tokens=True),rid=rid,rdec=tk.decode(rid,skip_special_tokens=False)))
      except BaseException as e:
        if 'Panic' not in type(e).__name__ and not isinstance(e,Exception): raise
        errs.append((name,str(e)[:80]))
    key=next(k for k in base if name.split('-')[1].split('{')[0]==k)
    set={k:v for k,v in tj.items() if k not in('model','added_tokens') and v!=base[key].get(k)}
    model={k:v for k,v in tj['model'].items() if v!=base[key]['model'].get(k)}
    out.append(dict(name=name,base=key,set=set,model=model,added=tj['added_tokens'][len(base[key]['added_tokens']):],cases=cases))
base={p.split('/')[-2]:json.load(open(p)) for p in paths}
for k,t in base.items(): run('base-'+k,t,60)
def sub(k,**kw):
    t=copy.deepcopy(base[k])
    for kk,v in kw.items(): t[kk]=v
    return t
R=lambda s:{"Regex":s}
S=lambda s:{"String":s}
norms=[{"type":x} for x in("NFC","NFD","NFKC","NFKD","Lowercase","StripAccents")]+[{"type":"Strip","strip_left":True,"strip_right":False},{"type":"Strip","strip_left":True,"strip_right":True},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":S("a"),"content":"xx"},{"type":"Replace","pattern":R(r"\s+"),"content":" "},{"type":"Replace","pattern":R(r"[\p{L}]"),"content":""},{"type":"Sequence","normalizers":[{"type":"Lowercase"},{"type":"NFD"},{"type":"StripAccents"}]}]
for i,n in enumerate(norms):
    for b in(("qwen","llama2","unigram") if n["type"] in("Strip","Replace") else ("qwen","neox","llama2","unigram")): run(f"norm{i}-{b}-{json.dumps(n)}",sub(b,normalizer=n))
pres=[{"type":"Whitespace"},{"type":"WhitespaceSplit"},{"type":"BertPreTokenizer"},{"type":"Punctuation","behavior":"Isolated"},{"type":"Punctuation","behavior":"Contiguous"},{"type":"Digits","individual_digits":True},{"type":"Digits","individual_digits":False},{"type":"CharDelimiterSplit","delimiter":"a"},{"type":"ByteLevel","add_prefix_space":True,"trim_offsets":True,"use_regex":True},{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":True},{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":True},{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":True},{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":False}]
for beh in("Removed","Isolated","MergedWithPrevious","MergedWithNext","Contiguous"):
    for inv in(False,True):
        for pat in(S(" "),S("▁"),R(r"\s"),R(r"\w+"),R(r"[^\W\d]+"),R(r"(?i:s|k|ab)"),R(r"\d{2,}"),R(r"[^\s\p{L}]{1,2}?"),R(r"(?<=a)b|\h\h"),R(r"a*")):
            pres.append({"type":"Split","pattern":pat,"behavior":beh,"invert":inv})
res=[r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
 r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
 r"\s?\p{L}+|\s?\p{N}+|\s?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", r"[0-9][0-9][0-9]", r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\p{Han}+|\p{Cyrillic}|.", r"[一-龥぀-ゟ゠-ヿ]+", r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+",r"^\s|\s$", r"(?=(\d{3})+(?!\d))"]
for r in res: pres.append({"type":"Split","pattern":R(r),"behavior":"Isolated","invert":False})
for i,p in enumerate(pres):
    b=random.choice(["llama2","unigram"]) if p["type"]!="ByteLevel" else "neox"
    run(f"pre{i}-{b}-{json.dumps(p)}",sub(b,pre_tokenizer=p,normalizer=None))
    if p["type"]=="Split": run(f"preb{i}-qwen-{json.dumps(p)}",sub("qwen",pre_tokenizer={"type":"Sequence","pretokenizers":[p,{"type":"ByteLevel","add_prefix_space":bool(i%2),"trim_offsets":True,"use_regex":bool(i%3)}]}))
# model options
for opt in({"fuse_unk":False},{"byte_fallback":False},{"byte_fallback":False,"fuse_unk":False},{"byte_fallback":False,"unk_token":None},{"ignore_merges":True}):
    t=copy.deepcopy(base["llama2"]); t["model"].update(opt); run(f"model-llama2-{opt}",t)
t=copy.deepcopy(base["unigram"]); t["model"]["byte_fallback"]=True; run("model-unigram-bytes",t)
# added tokens
def add(b,toks):
    t=copy.deepcopy(base[b]); n=max(max(t['model']['vocab'].values()) if isinstance(t['model']['vocab'],dict) else len(t['model']['vocab'])-1,max(a['id'] for a in t['added_tokens']))+1
    for c,kw in toks:
        v=t['model']['vocab']
        if isinstance(v,list): v={x[0]:i for i,x in enumerate(v)}
        if c in v:
            t['added_tokens'].append(dict(id=v[c],content=c,single_word=False,lstrip=False,rstrip=False,normalized=False,special=False)|kw); continue
        t['added_tokens'].append(dict(id=n,content=c,single_word=False,lstrip=False,rstrip=False,normalized=False,special=False)|kw); n+=1
    return t
for b in base:
    for ls in(0,1):
        for rs in(0,1):
            for sw in(0,1):
                for nm in(0,1):
                    run(f"added-{b}-{ls}{rs}{sw}{nm}",add(b,[("hello",dict(lstrip=bool(ls),rstrip=bool(rs),single_word=bool(sw),normalized=bool(nm))),("the",dict(special=True,lstrip=bool(rs),single_word=bool(sw))),("é",dict(normalized=bool(nm),rstrip=bool(ls))),("a",dict(single_word=True,normalized=bool(nm))),("ab",dict(single_word=True,normalized=bool(nm)))]),4)
decs=[None,{"type":"Fuse"},{"type":"ByteFallback"},{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":True},{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":True},{"type":"Strip","content":"▁","start":2,"stop":1},{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":"▁","start":1,"stop":2}]},{"type":"Sequence","decoders":[{"type":"Replace","pattern":S("▁"),"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":S("▁▁"),"content":" "}]},{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":True}]},{"type":"ByteLevel"},{"type":"Sequence","decoders":[{"type":"ByteLevel","add_prefix_space":True,"trim_offsets":True,"use_regex":True}]},{"type":"Replace","pattern":R("[aeiou]"),"content":"*"}]
for i,d in enumerate(decs):
    for b in("llama2","unigram","qwen"): run(f"dec{i}-{b}-{json.dumps(d)}",sub(b,decoder=d))
posts=[{"type":"RobertaProcessing","sep":["</s>",2],"cls":["<s>",1],"trim_offsets":True,"add_prefix_space":True},{"type":"BertProcessing","sep":["</s>",2],"cls":["<s>",1]},{"type":"Sequence","processors":[{"type":"BertProcessing","sep":["</s>",2],"cls":["<s>",1]},{"type":"ByteLevel","add_prefix_space":True,"trim_offsets":False,"use_regex":True}]}]
for i,p in enumerate(posts): run(f"post{i}-llama2",sub("llama2",post_processor=p))
with open('reference.json','w') as f:
    f.write('[\n'+',\n'.join(json.dumps(o,separators=(',',':')) for o in out)+'\n]\n')
print(len(out),sum(len(o['cases']) for o in out))
