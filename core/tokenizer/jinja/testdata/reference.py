"""Writes reference.json: what Jinja2 makes of small templates in the environment of transformers' chat templates.

Run by hand, from this folder, with jinja2 3.1.6; the test only reads the result."""
import copy, json, random, jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2 import nodes
class Gen(jinja2.ext.Extension):
    tags={"generation"}
    def parse(self,parser):
        ln=next(parser.stream).lineno
        body=parser.parse_statements(["name:endgeneration"],drop_needle=True)
        return nodes.CallBlock(self.call_method("_g"),[],[],body).set_lineno(ln)
    def _g(self,caller): return caller()
def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
def rexc(m): raise jinja2.exceptions.TemplateError(m)
env=ImmutableSandboxedEnvironment(trim_blocks=True,lstrip_blocks=True,extensions=[Gen,jinja2.ext.loopcontrols])
env.filters["tojson"]=tojson; env.globals["raise_exception"]=rexc
V=json.loads('''{"s":"Hello World","e":"","u":"Straße é 你好 'q' \\"d\\"","n":5,"z":0,"neg":-7,"f":2.5,"big":12345678901234567890,"t":true,"fa":false,"no":null,"l":[3,1,2],"ls":["b","A","a","c"],"el":[],"d":{"b":1,"a":[1,"x",null,true,1.5],"items":9},"ed":{},"msgs":[{"role":"user","content":"hi","n":2},{"role":"assistant","content":"  yo\\n","n":1},{"role":"user","content":[{"type":"text","text":"p1"}],"n":3}],"multi":"a b  c\\nd\\te","html":"<a href='x'>&</a>"}''')
names=list(V)+["undef"]
E=[]
tests="defined undefined none boolean true false integer float number string mapping sequence iterable callable lower upper odd even".split()
filts=["abs","capitalize","center(9)","count","default('D')","default('D',true)","dictsort","escape","first","float","int","items|list","join(',')","join","last","length","list","lower","max","min","reverse|list","reverse","round","round(1)","string","sum","title","tojson","tojson(indent=2)","tojson(indent=1,sort_keys=true)","tojson(ensure_ascii=True)","tojson(separators=(',',':'))","trim","trim('H')","truncate(5)","truncate(5,true,'!')","unique|list","upper","wordcount","sort","sort(reverse=true)","sort(case_sensitive=true)","sort(attribute='n')","map(attribute='role')|list","map('upper')|list","select|list","select('string')|list","reject('none')|list","selectattr('role','equalto','user')|list","selectattr('role')|list","rejectattr('n','gt',1)|list","groupby('role')","groupby('role')|map(attribute='list')|map('length')|list","batch(2)|list","batch(2,'x')|list","slice(2)|list","slice(4,'-')|list","replace('l','L')","replace('l','L',1)","indent(2)","indent(2,true)","indent('--',false,true)","map(attribute='content')|map('default','z')|list","min(attribute='n')","max(attribute='n')","sum(attribute='n')","int(7)","float(1.5)","items","select","attr('upper')","format(1)","dictsort(by='value')","dictsort(reverse=true)","length|string","first|upper","map('first')|list","safe","e"]
meths=["upper()","lower()","strip()","lstrip()","rstrip()","strip('H')","split()","split('l')","split('l',1)","rsplit('l',1)","rsplit(None,1)","splitlines()","splitlines(true)","startswith('He')","endswith('ld')","startswith(('x','H'))","replace('l','L')","replace('l','L',1)","find('o')","rfind('o')","index('o')","count('l')","title()","capitalize()","swapcase()","isdigit()","isalpha()","isalnum()","isspace()","isupper()","islower()","join(['a','b'])","center(15)","center(16,'*')","ljust(15)","rjust(15,'.')","zfill(15)","partition('o')","rpartition('o')","removeprefix('He')","removesuffix('ld')","format(1,2)","get('a')","get('q')","get('q',3)","keys()|list","values()|list","items()|list","items","b","a","append(1)","update({})","pop()","nope","index(1)","foo()","find('o',5)","istitle()","casefold()","startswith('W',6)","copy()"]
for v in names:
    E.append("{{ %s }}"%v)
    for t in tests: E.append("{{ %s is %s }}{{ %s is not %s }}"%(v,t,v,t))
    for f in filts: E.append("{{ %s|%s }}"%(v,f))
    for m in meths: E.append("{{ %s.%s }}"%(v,m))
    for i in("0","-1","99","'a'","'items'","1:","::-1",":2","1:-1",":-1","-2:","::2","5:1:-2","none","true"): E.append("{{ %s[%s] }}"%(v,i))
    for w in names:
        for op in "+ - * / // % ** == != < <= > >= in ~ and or".split()+["not in"]:
            if op=="**" and (v=="big" or w=="big" or v=="neg"): continue
            E.append("{{ %s %s %s }}"%(v,op,w))
extra=r'''{{ '%s is %d and %.2f|%5d|%-5d|%05d|%x|%r|%%' % ('a', 3, 2.5, 42, 42, 42, 255, 'q') }}
{{ '%(a)s %(b)03d' % {'a':1,'b':2} }}
{{ '{} {} {0}'.format(1,2) }}
{{ '{0} {1} {0}'.format(1,2) }}
{{ '{a} {b:>5} {c:.2f} {d:05d} {e:,} {{x}} {a!r}'.format(a='A',b='B',c=1.234,d=42,e=1234567) }}
{{ '{:<6}|{:^6}|{:>6}|{:*^7}|{:+d}|{:e}|{:g}|{:%}'.format('a','b','c','d',3,12345.678,0.00001234,0.5) }}
{{ 1e20 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1.5e300 }} {{ 0.1+0.2 }} {{ 1/3 }} {{ -0.0 }} {{ 2**0.5 }} {{ 100**2 }} {{ 7//-2 }} {{ -7//2 }} {{ 7%-3 }} {{ -7%3 }} {{ 7.5//2 }} {{ -7.5%2 }} {{ 2**-1 }} {{ -2**2 }} {{ 2**3**2 }}
{{ [1,2]+[3] }} {{ (1,2)+(3,) }} {{ [1]*3 }} {{ 'ab'*2 }} {{ 3*'ab' }} {{ () }} {{ (1,) }} {{ {} }} {{ {'a':{'b':[1,(2,)]}} }}
{{ 'a' 'b' "c" }} {{ "tab\there\nnl \\ \x41 \u00e9 \U0001F600 \q \101" }} {{ 'it''s' }}
{{ 1 if true }} {{ 1 if false }}| {{ 1 if false else 2 if false else 3 }}
{{ not true or true }} {{ not (true or true) }} {{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 1 in [1] in [[1]] }}
{{ l|map('string')|join('-') }} {{ range(5)|list }} {{ range(1,10,3)|list }} {{ range(5,0,-2)|list }} {{ range(3)[1] }} {{ range(5)[1:3]|list }}
{% for i in range(200000) %}{% endfor %}
{% for a,b in [(1,2),(3,4)] %}{{ a }}{{ b }}{% endfor %}
{% for a,b in [(1,2,3)] %}{{ a }}{% endfor %}
{% for k,v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for c in 'abc' %}{{ c }}{% if not loop.last %},{% endif %}{% endfor %}
{% for x in no %}{% endfor %}
{% for x in undef %}a{% else %}none{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x','y') }}{{ loop.changed(x>1) }};{% endfor %}
{% for x in [[1,[2,3]],[4]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}
{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}
{% set ns = namespace({'q':2}, b=3) %}{{ ns.q }}{{ ns.b }}{{ ns.zz }}{{ ns['q'] }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d2) = [3,4] %}{{ c }}{{ d2 }}
{% set x %}  hi {{ n }}  {% endset %}[{{ x }}]{{ x|length }}
{% set x | upper | trim %}  hi {% endset %}[{{ x }}]
{% filter upper|replace('H','J') %}hello{% endfilter %}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1,c=5) }} {{ m() }} {{ m(b=9,a=8) }}
{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1,2,3,x=4) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m(a) %}{{ a }}[{{ caller('z') }}]{% endmacro %}{% call(q) m(1) %}C{{ q }}{{ n }}{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body{% endcall %}
{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k-1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro x() %}{{ y }}{% endmacro %}{% set y = 5 %}{{ x() }}
{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% if undef %}a{% elif n == 5 %}b{% else %}c{% endif %}
{% if no is none and undef is not defined %}ok{% endif %}
  {% if true %}
  indented
  {% endif %}
end
   {%+ if true %} plus {% endif +%}
x
a {%- if true -%} b {%- endif -%} c
a  {{- ' x ' -}}  b
{# comment #}
after
  {# c #} x
{#- strip -#}   y
{% raw %} {{ x }} {% nope %} {% endraw %}
a {%- raw -%}  {{ x }}  {%- endraw -%} b
{{ msgs[0].role }} {{ msgs[0]['content'] }} {{ msgs[-1].content[0].text }} {{ msgs.0.role }}
{{ msgs[0].missing }} {{ msgs[0].missing.deeper }}
{{ undef.x }}
{{ undef + 1 }}
{{ undef ~ 'x' }} {{ undef|length }} {{ undef == undef }} {{ undef == none }} {{ undef in [1] }} {{ [undef]|list }} {{ [undef] }}
{{ 'x' + undef }}
{{ undef < 1 }}
{{ undef() }}
{{ undef is string }} {{ undef|upper }} {{ undef|first }} {{ undef|join }} {{ undef|sort }} {{ undef|int }} {{ not undef }}
{{ undef[0] }}
{{ dict(a=1,b=2) }} {{ dict([('x',1)]) }} {{ dict({'q':1}, z=2) }}
{{ {'a':1}.a }} {{ {'a':1}['a'] }} {{ {1:2}[1] }} {{ {1:2}[1.0] }} {{ {true:'y'}[1] }} {{ {(1,2):3}[(1,2)] }}
{{ {'a':1} == {'a':1.0} }} {{ [1,2] == (1,2) }} {{ [1,2] < [1,3] }} {{ (1,2) < (1,) }} {{ 'a' < 'B' }} {{ true + true }} {{ true == 1 }} {{ '1' == 1 }}
{{ {[1]:2} }}
{{ raise_exception('my text') }}
{% generation %}g{{ n }}{% endgeneration %}
{% set q = 1 %}{% generation %}{% set q = 2 %}{% endgeneration %}{{ q }}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% else %}never{% endfor %}
{% break %}
{% for i in [] %}{% else %}{{ loop }}{% endfor %}
{% set g = l|map('string') %}{{ g|list }}{{ g|list }}
{{ l|select('gt',1)|first }} {{ (l|select('odd'))|list|length }} {{ l|select|length }}
{{ msgs|map(attribute='content.0.text')|list }} {{ msgs|map(attribute='zz', default='D')|list }}
{{ (msgs|groupby('role'))[0].grouper }} {{ (msgs|groupby('role'))[0][1]|length }}
{{ msgs|sort(attribute='role,n')|map(attribute='n')|list }}
{{ 1|string + 'a' }} {{ -1|abs }} {{ (-1)|abs }} {{ 'x'|upper ~ 'y'|upper }} {{ 'a'|default }} {{ [1,2]|join(', ') is string }}
{{ 5 is divisibleby 5 }} {{ 5 is divisibleby(2) }} {{ 4 is even and 3 is odd }} {{ 1 is eq 1 }} {{ 1 is in [1,2] }} {{ 'a' is sameas 'a' }} {{ none is sameas none }} {{ 3 is gt 2 }} {{ x is defined }} {{ 'a' is in 'abc' }}
{{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }}
{{ 10000000000000000000000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 1_0.5 }} {{ 1e3 }} {{ 1E3 }} {{ 1.e3 }}
{{ 'abc'.upper }}
{{ [1,2,3].append(4) }}
{% set j = joiner(',') %}{{ j() }}{{ j() }}{{ j() }}
{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}
{{ '5'|int + 1 }} {{ '5.7'|int }} {{ 'x'|int }} {{ '0x1f'|int(base=16) }} {{ 'ff'|int(0,16) }} {{ ' 12 '|int }} {{ '1_000'|int }} {{ '1e3'|int }} {{ '1e3'|float }} {{ 'nan'|float }} {{ 'inf'|float }} {{ none|int }} {{ true|int }} {{ [] |int }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 1234.5|round(-2) }} {{ 2.1|round(0,'ceil') }} {{ 2.9|round(method='floor') }} {{ 5|round }}
{{ 'hello world foo'|truncate(9) }} {{ 'hello world foo'|truncate(9,true) }} {{ 'hello'|truncate(3,true,'',0) }} {{ 'hello world foo'|truncate(11,leeway=0) }}
{{ "x".center(4) }}| {{ "x".center(5) }}| {{ "xy".center(5) }}| {{ 'x'|center(4) }}|
{{ 'a.b.c'.split('.')[-1] }} {{ 'a-b_c d'|title }} {{ "they're bill's"|title }} {{ "they're bill's".title() }} {{ 'ǆ'.title() }} {{ 'ß'|upper }} {{ 'ΑΣ'|lower }} {{ 'İ'|lower|length }}
{{ none }} {{ [none] }} {{ none|string }} {{ none ~ 'a' }} {{ none == none }} {{ none|default('x') }} {{ none|length }}
{{ 'a\'b' }} {{ ["a'b", 'a"b', 'a\'b"c', 'é\n\x00\u200b\xad'] }}
{{ [1.0, 1e100, -0.0, 1.5] }} {{ {'a': 1.0}|tojson }} {{ [1e100, 1e-7, 123456789.0]|tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
{{ "\u2028\u0000\u007f</script>&'"|tojson }} {{ "\u00e9😀"|tojson(ensure_ascii=true) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=2) }} {{ [[],{}]|tojson(indent=2) }} {{ (1,2)|tojson }} {{ l|map('string')|tojson }}
{{ undef|tojson }}
{{ caller }}{{ loop }}
{% set self2 = 1 %}{% if true %}{% set self2 = 2 %}{% endif %}{{ self2 }}
{% for i in l %}{% for j in ls %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{{ l[0] if l else 'e' }} {{ (el or ls)[0] }} {{ (no or 'dflt') }} {{ s and n }} {{ '' or 0 }}
{{ d.items }}
{{ d['items'] }} {{ d.get('items') }} {{ ed.items() }}
{{ 'abc'|list }} {{ d|list }} {{ 'abc'|first }}{{ 'abc'|last }} {{ 'abc'|reverse }} {{ d|length }} {{ 'cab'|sort }} {{ 'b' > 'a' }} {{ [3,1]|sort == [1,3] }} {{ ['b',1]|sort }}
{{ ['a','B','A']|unique|join }} {{ ['a','B','A']|unique(case_sensitive=true)|join }} {{ ['b','A','c']|sort|join }} {{ ['b','A','c']|max }}{{ ['b','A','c']|min(case_sensitive=true) }} {{ []|max }}| {{ []|first }}| {{ []|sum }} {{ [[1],[2]]|sum(start=[]) }} {{ ['a']|sum }}
{{ 1.0|int }} {{ 1e400 }} {{ 3|float }} {{ 7|float / 2 }} {{ '3'|float }} {{ 1 == 1.0 == true }}
{{ multi.split() }} {{ multi.split(' ') }} {{ multi.split(None, 1) }} {{ ' a b '.split() }} {{ ''.split() }} {{ ''.split(',') }} {{ 'aXbX'.split('X') }} {{ 'a,b'.split(',', 0) }} {{ multi.splitlines() }}
{{ html|escape }} {{ html|e }} {{ html|urlencode }} {{ 'a b/c?d=é'|urlencode }}
{{ (1,2)[0] }} {{ (1,2,3)[1:] }} {{ [1,2,3][::2] }} {{ [1,2,3][5:] }} {{ 'abc'[10] }}| {{ 'abc'[-1] }}
{{ "a" is string and "b" is string }} {{ 1 is number is true }}
{{ [x, s] if x is defined else [s] }}
{{ 1 ~ 2 ~ 'a' + 'b' }} {{ 'a' + 1 ~ 'b' }}
{{ 'a' * 0 }}| {{ 'a' * -1 }}| {{ [0] * 2 }} {{ 1 - -1 }} {{ - -1 }} {{ +1 }} {{ -'a' }}
{{ msgs|selectattr('content','string')|map(attribute='content')|map('trim')|list }} {{ msgs|rejectattr('content','string')|list|length }} {{ msgs|selectattr('n','in',[1,2])|map(attribute='n')|list }}
{{ foo.bar is defined }}
{{ msgs[0].foo is defined }} {{ msgs[9] is defined }} {{ msgs[9].x is defined }}
{% for m in msgs[1:] %}{{ m.n }}{% endfor %} {% for m in msgs|reverse %}{{ m.n }}{% endfor %} {{ msgs[-1:]|length }}
{% if s.startswith('Hel') and 'World' in s and s.split(' ')|length == 2 %}yes{% endif %}
{% set x = [] %}{% for i in l %}{% set x = x + [i] %}{% endfor %}{{ x }}
{% set ns = namespace(x=[]) %}{% for i in l %}{% set ns.x = ns.x + [i*2] %}{% endfor %}{{ ns.x|tojson }}
{% set l2 = l + [9] %}{{ l2 }} {{ l }}
{% set d.x = 1 %}
{% set loop = 1 %}
{{ x.y.z }}
{% if %}{% endif %}
{% for %}{% endfor %}
{% unknown %}
{{ 1 + }}
{{ (1 }}
{{ 'abc }}
{% if true %}
{% endfor %}
{{ s|nofilter }}
{{ s is notest }}
{% endif %}
}} %} #}
{{ '}}' }} {{ {'a': {'b': 1}} }}{{ "%}" }}
{{ 1 }}{% if true %}
x{% endif %}
	{% if true %}	tab{% endif %}
{{ a.b.c|default('x') }}
{{ [1,2,3]|batch(2)|list|length }} {{ 'é'|length }} {{ '👩‍💻'|length }} {{ '👩‍💻'[0] }}
{{ 'abc' if 'a' is in 'abc' else 'q' }}
{{ s[0:5]|upper|lower|title ~ '!' }}
{{ 3 if n == 5 and not z else 4 }}
{{ range(0)|list }} {{ range(3)|length }}
{{ loop is defined }} {{ namespace is defined }} {{ true is boolean }} {{ 1 is boolean }}
{%- set x = 'a' -%}
  {{ x }}
{%- if x %}
    yes
{%- endif %}
tail
{{ '\\n' }} {{ "\\" }} {{ 'a\
b' }}
{{ d.a[1:3] }} {{ d.a|map('string')|join('|') }} {{ d.a|select('none')|list }} {{ d.a|reject('string')|list }}
{{ 'x=%s' % 5 }} {{ 'x=%s' % [1,2] }} {{ '%s' % none }} {{ '%d' % 3.7 }} {{ '%5.1f|' % 3.14159 }} {{ '%s %s' % (1,) }}
{{ '%s' % (1,2) }}
{{ '%d' % 'a' }}
{{ ''.join(ls) }} {{ ','.join(l) }}
{{ 1.23456789012345678 }} {{ 100000000000000000.0 }} {{ 5.0 // 2 }} {{ 5 / 5 }} {{ 10 ** 18 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ ls|join(sep) }} {{ ls|join(d=', ') }} {{ ls|join('-', attribute='upper') }}
{{ not none }} {{ not 0 }} {{ not '' }} {{ not [] }} {{ not {} }} {{ not 'a' }} {{ not 0.0 }}
{{ msgs|map(attribute='role')|unique|list }} {{ msgs|map(attribute='role')|join(' ')|upper }}
{{ s is eq('Hello World') }} {{ l is sequence }} {{ d is mapping }} {{ s is iterable }} {{ l is mapping }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ raise_exception is callable }}'''
for x in extra.split("\n"): E.append(x)
E.append(extra.split("{% unknown %}")[0].split("{% break %}")[0].split("{{ 10000000000")[0])
extra_count=len(extra.split("\n"))+1
# white space around tags
random.seed(5)
bits=["{% if t %}","{%- if t %}","{% if t -%}","{%+ if t %}","{% if t +%}","{%- if t -%}","{% endif %}","{%- endif %}","{% endif -%}","{%+ endif +%}","{{ n }}","{{- n }}","{{ n -}}","{{- n -}}","{# c #}","{#- c #}","{# c -#}","{#+ c +#}","{% raw %}","{% endraw %}","{%- raw -%}","{%- endraw -%}","{%+ raw %}","\n","\n\n"," ","   ","\t","a","b ","\r\n","{% set q = 1 %}","{%- set q = 1 -%}","\u00a0","\u3000\n"]
W=[]
while len(W)<1500:
    t=''.join(random.choice(bits) for _ in range(random.randint(2,14)))
    W.append(t)
out=[]
for t in random.sample(E[:-extra_count],2500)+E[-extra_count:]+W:
    try:
        r=env.from_string(t).render(**copy.deepcopy(V))
        if 'object' in r and ' at 0x' in r or '<bound' in r or '<built-in' in r or 'Markup(' in r or '<function' in r or '<Macro' in r or 'dict_' in r: continue
        r.encode()
        out.append((t,r,None))
    except BaseException as e:
        out.append((t,None,type(e).__name__+": "+str(e)))
with open('reference.json','w') as f:
    f.write(json.dumps({"vars":V})[:-1]+',\n"cases":[\n'+',\n'.join(json.dumps(o,separators=(',',':')) for o in out)+'\n]}\n')
print(len(out),sum(1 for o in out if o[1] is None))
